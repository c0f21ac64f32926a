"""A table of ten thousand rows: checked, dispatched, and run again when all are finished. ``make soak``."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import REPOSITORY
from hallo3.cli import batch
from hallo3.cli.batch import MAX_CHECKERS
from hallo3.cli.main import main
from hallo3.cli.options import BatchOptions
from hallo3.cli.row_files import RowFiles, row_key
from hallo3.cli.table import parse_rows, read_table
from hallo3.fleet.ledger import LEDGER_FILENAME, Ledger
from hallo3.fleet.workers import Processes
from soak.machine import keep
from support import fleet_rows
from support.audio_samples import tone, write_wav

pytestmark = [pytest.mark.soak, pytest.mark.skipif(os.name == "nt", reason="hard links, wait4")]
ROWS, FEWER = 10_000, 1_000
MAX_CHECK_SECONDS, MAX_RESTART_SECONDS, MAX_ROW_MS, MAX_MORE_MB = 60, 10, 20, 64
"""CPU seconds per core: other programs change little of them."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, with a portrait and a recording for each row."""
    folder = tmp_path_factory.mktemp("table")
    write_wav(folder / "s.wav", tone(16000, 0.5), 16000)
    (folder / "p.png").write_bytes((REPOSITORY / "samples" / "portrait.png").read_bytes())
    rows = [f"{number}.png,{number}.wav,{number}" for number in range(ROWS)]
    for number in range(ROWS):
        (folder / f"{number}.png").hardlink_to(folder / "p.png")
        (folder / f"{number}.wav").hardlink_to(folder / "s.wav")
    for count in (FEWER, ROWS):
        (folder / f"{count}.csv").write_text("\n".join(["portrait,speech,seed", *rows[:count]]))
    return folder


def run(home: Path, model: Path, rows: int, *words: str) -> tuple[str, float, float, float]:
    """What ``hallo3 batch`` prints, its seconds, CPU seconds and peak memory in MB."""
    command = [sys.executable, "-m", "hallo3", "batch", str(home / f"{rows}.csv"), "--model", str(model)]
    command += ["--whole-picture", "-o", str(home / "videos"), *words]
    env, started = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(home)}, time.monotonic()
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode, said = os.waitstatus_to_exitcode(status), (home / "log").read_text()
    assert process.returncode == 0, said[-3000:]
    return said, time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def test_ten_thousand_rows_are_checked_in_a_minute(home: Path, nano_folder: Path) -> None:
    (home / "videos").mkdir(exist_ok=True)
    _, _, _, fewer_mb = run(home, nano_folder, FEWER, "--check")
    said, seconds, cpu, mb = run(home, nano_folder, ROWS, "--check")
    assert f"{ROWS} of {ROWS} rows are fine" in said
    figures = {"rows": ROWS, "seconds": seconds, "CPU seconds": cpu, "MB": mb, "MB of a tenth": fewer_mb}
    keep("soak_table.json", {name: round(value, 1) for name, value in figures.items()}, "check")
    assert cpu / min(os.cpu_count() or 1, MAX_CHECKERS) < MAX_CHECK_SECONDS
    assert mb < fewer_mb + MAX_MORE_MB


def test_a_table_that_is_finished_is_run_again_in_ten_seconds(home: Path, nano_folder: Path) -> None:
    """Its videos are stand-ins, and its ledger says that they are done."""
    videos = home / "videos"
    videos.mkdir(exist_ok=True)
    options = BatchOptions(
        table=home / f"{ROWS}.csv", output=videos, model=nano_folder, whole_picture=True, speech=None
    )
    files, ledger = RowFiles(), Ledger(videos / "hallo3_jobs" / LEDGER_FILENAME)
    for row in parse_rows(read_table(options.table), options):
        assert row.options is not None
        assert row.options.output is not None
        row.options.output.write_bytes(b"a video")
        ledger.note(row_key(row.options), [*files.look(row.options)])
    said, seconds, cpu, mb = run(home, nano_folder, ROWS)
    assert f"{ROWS} of {ROWS} rows are fine; {ROWS} were finished before" in said
    figures = {"rows": ROWS, "seconds": seconds, "CPU seconds": cpu, "MB": mb}
    keep("soak_table.json", {name: round(value, 1) for name, value in figures.items()}, "restart")
    assert cpu < MAX_RESTART_SECONDS


def test_a_row_costs_twenty_milliseconds_beside_its_own(
    home: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers in processes whose rows do nothing: what the command takes for table, ledger and pipes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]))
    monkeypatch.setattr(batch, "_open_workers", lambda _: (Processes(fleet_rows.open_nothing), 2))
    words = ["batch", str(home / f"{ROWS}.csv"), "--model", str(nano_folder), "-o", str(home / "none")]
    started, cpu = time.monotonic(), time.process_time()
    assert main(words) == 0
    figures = {"rows": ROWS, "ms per row": 1000 * (time.monotonic() - started) / ROWS}
    figures |= {"CPU ms": 1000 * (time.process_time() - cpu) / ROWS}
    assert f"{ROWS} of {ROWS} rows are fine" in capsys.readouterr().out
    keep("soak_table.json", {name: round(value, 2) for name, value in figures.items()}, "overhead")
    assert figures["CPU ms"] < MAX_ROW_MS
