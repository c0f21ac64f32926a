"""Videos, job keys, plans and options are as recorded; jobs and identities of version 0.1.0 still work."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from contract import frozen

RECORDED: dict[str, Any] = json.loads(frozen.RECORD.read_text())
HERE = frozen.machine()
SAME_MACHINE = RECORDED["machine"] == HERE
SAME_ENCODER = HERE["av"] == RECORDED["machine"]["av"]
ELSEWHERE = {"nano bf16": (64, 3), "nano fp8": (64, 3), "continued": (255, 255)}
"""How far apart frames may be, at most and on average: torch 2.7 rounds products of bf16 otherwise, and
the seed of a video that continues another is made of every bit of that one."""

COMPUTED = {"continued", "from identity"}
"""Their keys hash what was computed, the continued segments and the identity's features, so they follow the
machine's rounding."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> frozen.Bench:
    return frozen.Bench(tmp_path_factory.mktemp("frozen"))


@pytest.mark.parametrize("skipped", [frozen.LONG, pytest.param(set(), marks=pytest.mark.soak)])
def test_videos_and_job_keys_are_as_recorded(bench: frozen.Bench, skipped: set[str]) -> None:
    wanted, seen = load_file(frozen.FRAMES), set[str]()
    wrong: list[str] = []
    for name, found, frames in frozen.runs(bench, skipped):
        recorded = RECORDED["runs"][name]
        seen.add(name)
        same_key = SAME_ENCODER if name not in COMPUTED else SAME_MACHINE
        if same_key and found.get("job") != recorded.get("job"):
            wrong.append(f"{name}: job {found.get('job')} instead of {recorded.get('job')}")
        if SAME_MACHINE and found["frames"] != recorded["frames"]:
            wrong.append(f"{name}: other frames")
        apart = np.abs(frozen.shown(frames).astype(int) - wanted[name])
        most, mean = (16, 0.5) if SAME_MACHINE else ELSEWHERE.get(name, (16, 0.5))
        if apart.max() > most or apart.mean() > mean:
            wrong.append(f"{name}: up to {apart.max()} apart")
    assert wrong == []
    assert seen == RECORDED["runs"].keys() - skipped


def test_plans_are_as_recorded(bench: frozen.Bench) -> None:
    assert {name: bench.plan(*flags) for name, flags in frozen.PLANS.items()} == RECORDED["plans"]


def test_options_are_as_recorded() -> None:
    assert frozen.options() == RECORDED["options"]


def test_a_job_of_version_0_1_0_is_resumed(bench: frozen.Bench, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bench.folder / frozen.FOUR / "hallo3_jobs"
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(frozen.KEPT / "job", folder)
    assert frozen.main(["jobs", str(folder)]) == 0
    assert "2 of 4 segments" in capsys.readouterr().out
    if not SAME_ENCODER:
        pytest.skip(f"encoded by av {RECORDED['machine']['av']}, here {HERE['av']}: pieces cannot be joined")
    job = next((frozen.KEPT / "job").iterdir())
    frames = frozen.frames_of(bench.animate(frozen.FOUR, "nano", speech="long.wav"))
    places = (job, folder / job.name)
    before, kept = ({path.name: path.read_bytes() for path in p.glob("segments/*")} for p in places)
    assert before.items() <= kept.items()
    assert (len(kept), len(frames)) == (4, 55)
    # its two segments were rendered by that version, whose rounding was another
    apart = np.abs(frozen.shown(frames).astype(int) - load_file(frozen.FRAMES)[frozen.FOUR])
    assert apart.max() <= 16


def test_an_identity_of_version_0_1_0_is_read(bench: frozen.Bench) -> None:
    identity = str(frozen.KEPT / "identity.safetensors")
    from_file = bench.animate("old identity", "nano", "--identity", identity)
    direct = bench.animate("direct", "nano")
    apart = np.abs(frozen.frames_of(from_file).astype(int) - frozen.frames_of(direct))
    assert apart.max() <= (0 if SAME_MACHINE else 16)
    assert {path.name for path in frozen.KEPT.iterdir()} == {"identity.safetensors", "job"}, "and no more"
