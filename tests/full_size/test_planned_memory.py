"""What ``--plan`` says of memory beside what is sampled, in twelve ways to run on a CPU; Linux.

    pytest -m soak -s tests/full_size/test_planned_memory.py

Ten minutes and 6 GB of disk: a quarter of the width, on a small canvas.
"""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import REPOSITORY
from full_size.generate import WRITERS, Sizes, write_inputs
from full_size.measure import Run, limited_group, measure
from soak.machine import keep

pytestmark = [pytest.mark.soak, pytest.mark.any_message]
SIZES = Sizes.scaled(0.25, (49, 96, 144))
MAX_ABOVE = 1.15
PROMPT = ("--prompt", "a person talks to the camera")
BF16, FP32 = ("--dtype", "bf16"), ("--dtype", "fp32")


class Mode(NamedTuple):
    """``gigabytes`` of a control group, if any."""

    flags: tuple[str, ...]
    model: str = "models"
    gigabytes: float = 0


MODES = {
    "default": Mode(PROMPT),
    "default, bf16": Mode(BF16),
    "trial": Mode(("--trial", *PROMPT)),
    "trial, bf16": Mode(("--trial", *BF16)),
    "none": Mode(("--offload", "none", *FP32, *PROMPT)),
    "blocks, bf16": Mode(("--offload", "blocks", *BF16)),
    "disk": Mode(("--offload", "disk", *FP32)),
    "disk, bf16": Mode(("--offload", "disk", *BF16, *PROMPT)),
    "low memory": Mode(("--low-memory", *FP32)),
    "low memory, bf16": Mode(("--low-memory", *BF16)),
    "downloaded files": Mode(BF16, model="weights"),
    "in 2 GB": Mode((*BF16, *PROMPT), gigabytes=2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    for write in WRITERS.values():
        write(folder / "weights", SIZES)
    write_inputs(folder)
    assert run(folder, ["convert", "weights", "models"]).code == 0
    return folder


def run(folder: Path, words: list[str], group: Path | None = None) -> Run:
    environment = {"HOME": str(folder), "PYTHONPATH": str(REPOSITORY)}
    return measure(["-m", "hallo3", *words], group, folder / "log.txt", cwd=folder, **environment)


def test_plans_are_above_what_is_sampled(folder: Path) -> None:
    figures: dict[str, dict[str, float]] = {}
    for name, mode in MODES.items():
        words = ["animate", "--model", mode.model, "--portrait", "me.png", "--speech", "me.wav"]
        words += ["--steps", "1", "--faces-unverified", *mode.flags]
        group = partial(limited_group, mode.gigabytes) if mode.gigabytes else lambda: None
        plan = run(folder, [*words, "--plan", "--json"], group())
        assert plan.code == 0, (folder / "log.txt").read_text()[-2000:]
        sampled = run(folder, [*words, "--fresh", "-o", "me.mp4"], group())
        assert sampled.code == 0, f"{name}: {(folder / 'log.txt').read_text()[-2000:]}"
        planned = json.loads(plan.output)["memory"] / 1e9
        peak = sampled.figures["peak_gb"]
        figures[name] = {"planned_gb": round(planned, 2), "peak_gb": peak, "ratio": round(planned / peak, 3)}
        print(name, json.dumps(figures[name]), flush=True)
    keep("planned_memory.json", figures)
    assert {name: row for name, row in figures.items() if not 1 <= row["ratio"] <= MAX_ABOVE} == {}
