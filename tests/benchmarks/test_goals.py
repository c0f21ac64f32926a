"""What a result says of the goals."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.goals import GOALS, judged, segment_seconds
from benchmarks.rehearsal import full_size
from hallo3.offload.budget import plan_memory
from hallo3.offload.estimate import MemoryRequirements
from hallo3.quantization.precision import PRECISIONS
from hallo3.units import GB

H200 = {"device": "NVIDIA H200", "cuda": "12.8"}


def found(machine: dict[str, str] = H200, **parts: Any) -> dict[str, Any]:
    """A step takes 2 s by the original with the same attention and 2.5 s as it ships, ours 1.5 s."""
    steps = {
        "original, torch's choice": {"seconds": 2.5},
        "original, same attention": {"seconds": 2.0},
        "ours, plain, batched": {"seconds": 1.9, "share": 0.5},
        "ours, fused, batched": {"seconds": 1.5, "share": 0.6},
        "ours, fused, sequential": {"failed": "out of memory"},
    }
    decode = {"original": {"seconds": 10.0}, "ours": {"seconds": 3.0}}
    return {"machine": machine, "sizes": {"full_size": True}, "step": steps, "decode": decode} | parts


def streamed(gb: int) -> dict[str, float]:
    """What a step brings to the device under a ceiling, as a run of the released model is planned."""
    demand = MemoryRequirements(precision=PRECISIONS["bf16"], steps=50, branches=2, fused=True)
    sizes = full_size()
    step = plan_memory(sizes, demand, gb * GB, 64 * GB).stage("sample").streamed
    return {"streamed_gb": step / GB, "streamed_share": step / sizes.transformer.blocks.total}


def test_segments_are_fifty_steps_and_a_decode() -> None:
    assert segment_seconds(found(), "ours, fused, batched", "ours") == 78
    assert segment_seconds(found(), "ours, fused, batched", "none") is None


def test_figures_and_verdicts() -> None:
    rows = judged(found())
    figures = {name: row["figure"] for name, row in rows.items()}
    assert figures["G3"] == pytest.approx(110 / 78)
    assert figures["G4"] == pytest.approx(135 / 78)
    assert figures["G5"] == pytest.approx(135 / 78 * 4 / 3)
    assert (figures["G6"], figures["G7"]) == (0.6, 3.0)
    assert rows["G3"]["verdict"] == rows["G4"]["verdict"] == "reached"
    assert rows["G6"]["verdict"] == rows["G7"]["verdict"] == "must reached, target not reached"
    assert rows["G10"]["verdict"] == rows["G11"]["verdict"] == "not measured"


def test_ceilings_judge_streaming_and_what_stays() -> None:
    rows = {
        f"{gb} GB": {"seconds": 1.5, "slowdown": slowdown} | streamed(gb)
        for gb, slowdown in ((6, 1.04), (8, 1.07), (12, 1.3), (16, 1.0), (24, 1.0))
    } | {"4 GB": {"failed": "it does not fit"}}
    goals = judged(found({"device": "Another card", "cuda": "12.8"}, ceilings=rows))
    assert goals["G10"]["figure"] == 1.07, "at 12 GB less than half of the blocks stream"
    assert goals["G10"]["verdict"] == "must reached, target not reached"
    assert (goals["G11"]["figure"], goals["G11"]["verdict"]) == (16, "reached")


def test_a_failure_is_told() -> None:
    slow = found()
    slow["step"]["ours, fused, batched"] = {"seconds": 2.4, "share": 0.3}
    slow["step"]["ours, plain, batched"] = {"seconds": 2.4, "share": 0.3}
    assert judged(slow)["G3"]["verdict"] == judged(slow)["G6"]["verdict"] == "not reached"


@pytest.mark.parametrize(
    ("machine", "full", "verdict"),
    [
        ({"device": "CPU, x86_64"}, True, "not measured"),
        (H200, False, "not measured"),
        ({"device": "NVIDIA H100 80GB HBM3", "cuda": "12.8"}, True, "not measured on an H200"),
        ({"device": "NVIDIA GH200 480GB", "cuda": "12.8"}, True, "not measured on an H200"),
    ],
)
def test_nothing_is_claimed_for_a_gpu_that_was_not_there(
    machine: dict[str, str], full: bool, verdict: str
) -> None:
    rows = judged(found(machine, sizes={"full_size": full}))
    assert {rows[goal.name]["verdict"] for goal in GOALS if goal.card} == {verdict}
    assert {rows[goal.name]["verdict"] for goal in GOALS if not goal.card} == {"not measured"}
