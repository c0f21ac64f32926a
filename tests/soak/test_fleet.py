"""Two hundred rows on two workers that are killed at fifty random moments, and their driver at twenty, while
the disk fills up; and two machines that share rows on a storage that is slow and fails. No row is lost, none
is rendered twice. ``make soak``."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from hallo3.storage.files import TEMPORARY_SUFFIX
from soak.machine import keep
from support.fleet_kills import (
    COMMITS,
    Disturbance,
    Machine,
    check_commits,
    kill_driver,
    kill_worker,
    pause_worker,
    read_videos,
    write_rows,
)
from support.small_disk import LARGE, Disk, small_disk

pytestmark = [pytest.mark.soak, pytest.mark.skipif(os.name == "nt", reason="needs signals")]
SEED = 22
LEASE = 4.0


def fill(disk: Disk) -> Callable[[Disturbance], bool]:
    """For a moment there is next to no space."""

    def fill_now(fleet: Disturbance) -> bool:
        disk.fill(8 << 10)
        time.sleep(fleet.draw.uniform(0.1, 2.0))
        disk.enlarge(LARGE)
        return True

    return fill_now


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_workers_and_drivers_are_killed_and_the_disk_fills(
    engine: str, tmp_path: Path, nano_folder: Path
) -> None:
    if engine == "ray" and find_spec("ray") is None:
        pytest.skip("needs ray")
    rows, table, started = 200, write_rows(tmp_path, 200), time.monotonic()
    serial = Machine(table=table, model=nano_folder, videos=tmp_path / "serial", threads=1)
    serial.run()
    truth, seconds = read_videos(serial.videos), (time.monotonic() - started) / rows
    assert len(truth) == rows
    with small_disk(tmp_path / "disk") as disk:
        fleet = Machine(
            table=table, model=nano_folder, videos=disk.folder / "fleet",
            threads=1 if engine == "ray" else 2,  # processes divide them among the two workers
            words=("--workers", "2", *["--ray"] * (engine == "ray")),
            settings={"FLEET_COMMITS": str(tmp_path / COMMITS)},
        )  # fmt: skip
        disturbance = Disturbance(
            [fleet], rows, lambda: len([*fleet.videos.glob("*.mp4")]),
            {
                "workers killed": (50, kill_worker),
                "drivers killed": (20, kill_driver),
                "disk filled": (10, fill(disk)),
            },
            seed=SEED, row_seconds=seconds,
        )  # fmt: skip
        counts = disturbance.run()
        assert read_videos(fleet.videos) == truth
        counts["segments"] = check_commits(tmp_path / COMMITS)
    keep(f"soak_fleet_{engine}.json", {"seed": SEED, "rows": rows, **counts})


def test_two_machines_share_rows_on_a_storage_that_fails(tmp_path: Path, nano_folder: Path) -> None:
    rows, bucket, started = 60, tmp_path / "bucket", time.monotonic()
    table = write_rows(tmp_path, rows, "gs://bucket/")
    settings = {"FLEET_BUCKET": str(tmp_path), "FLEET_LEASE": str(LEASE)}
    (tmp_path / "plain").mkdir()
    serial = Machine(
        table=write_rows(tmp_path / "plain", rows), model=nano_folder, videos=tmp_path / "serial", threads=1
    )
    serial.run()
    seconds = (time.monotonic() - started) / rows
    truth = [data for _, data in sorted(read_videos(serial.videos).items())]
    machines = [
        Machine(
            table=table, model=nano_folder, videos=tmp_path / name, threads=1, settings=settings,
            words=("--workers", "1", "--jobs-folder", str(tmp_path / name / "hallo3_jobs")),
        )
        for name in ("first", "second")
    ]  # fmt: skip
    disturbance = Disturbance(
        machines, rows, lambda: len(read_videos(bucket)),
        {
            "workers killed": (15, kill_worker),
            "drivers killed": (6, kill_driver),
            "workers paused": (6, pause_worker(1.5 * LEASE)),
        },
        seed=SEED, row_seconds=seconds,
    )  # fmt: skip
    counts = disturbance.run()
    videos = read_videos(bucket)
    assert [videos[name] for name in sorted(videos)] == truth
    logs = [*(bucket / "hallo3_jobs" / "log").iterdir()]
    assert len(logs) == rows
    totals = Counter[str]()
    for log in logs:
        entries = sorted(path for path in log.iterdir() if path.suffix != TEMPORARY_SUFFIX)
        assert [int(entry.name) for entry in entries] == [*range(1, len(entries) + 1)]
        kinds = [json.loads(entry.read_bytes()) for entry in entries]
        committed = [each["index"] for each in kinds if each["kind"] == "segment"]
        assert sorted(committed) == [*range(len(committed))], "each once"
        assert len([each for each in kinds if each["kind"] == "video"]) == 1
        totals += Counter(each["kind"] for each in kinds)
    entries = {f"entries: {kind}": number for kind, number in sorted(totals.items())}
    keep("soak_fleet_shared.json", {"seed": SEED, "rows": rows, **counts, **entries})
