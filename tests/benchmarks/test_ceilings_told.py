"""What is said of ceilings of memory, against the plans themselves: arithmetic, nothing is run."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks.ceilings import CEILINGS
from benchmarks.rehearsal import full_size
from conftest import REPOSITORY
from hallo3.config import HALLO3
from hallo3.offload.budget import MemoryPlan, plan_memory
from hallo3.offload.estimate import MemoryRequirements
from hallo3.quantization.precision import PRECISIONS
from hallo3.units import GB

ROW = re.compile(r"^\| (\d+) GB \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
ALL = {"sequential": "all", "batched": "all, both branches at once"}


def planned(gb: float) -> MemoryPlan:
    """As ``python -m benchmarks ceilings`` plans."""
    demand = MemoryRequirements(
        precision=PRECISIONS["bf16"], steps=HALLO3.defaults.steps, branches=2, fused=True
    )
    return plan_memory(full_size(), demand, round(gb * GB), 64 * GB)


@pytest.fixture(scope="module")
def plans() -> dict[int, MemoryPlan]:
    return {gb: planned(gb) for gb in CEILINGS}


def row_of(plan: MemoryPlan) -> tuple[str, str, str]:
    """What stays, what streams, and the peak, in the README's words."""
    arranged, streamed = plan.offload, plan.stage("sample").streamed
    count = HALLO3.trunk.layers
    stays = f"{arranged.resident} of {count}" if arranged.resident < count else ALL[arranged.passes]
    return stays, f"{streamed / GB:.1f} GB" if streamed else "nothing", f"{plan.peak / GB:.1f} GB"


def test_the_readme_says_what_is_planned(plans: dict[int, MemoryPlan]) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("**Small cards.**")[2]
    told = {
        int(gb): (stays.removesuffix(" blocks"), streams, peak)
        for gb, stays, streams, peak in ROW.findall(text)
    }
    assert told == {gb: row_of(plan) for gb, plan in plans.items()}


def test_what_was_counted_is_what_is_planned_now(plans: dict[int, MemoryPlan]) -> None:
    """Otherwise ``python -m benchmarks ceilings --json docs/measurements/ceilings.json`` is due."""
    path = REPOSITORY / "docs" / "measurements" / "ceilings.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["ceilings"]
    assert [row["ceiling_gb"] for row in found] == list(plans)
    for row, plan in zip(found, plans.values(), strict=True):
        assert row["line"] == plan.line()
        assert row["plan"] == json.loads(json.dumps(plan.as_dict()))
        assert all(most <= plan.stage(name).total for name, most in row["counted"].items())
