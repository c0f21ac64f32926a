"""The README's table of memory limits and ``ceilings.json`` agree with the plans, without a run."""

import json
import re

import pytest

from benchmarks.ceilings import LIMITS, plan_limit
from conftest import REPOSITORY
from hallo3.config import HALLO3
from hallo3.offload.budget import MemoryPlan
from hallo3.units import GB

ROW = re.compile(r"^\| (\d+) GB \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
ALL = {"sequential": "all", "batched": "all, both branches at once"}


@pytest.fixture(scope="module")
def plans() -> dict[int, MemoryPlan]:
    return {limit: plan_limit(limit).plan for limit in LIMITS}


def test_the_readme_has_the_plans(plans: dict[int, MemoryPlan]) -> None:
    def row(plan: MemoryPlan) -> tuple[str, str, str]:
        offload, streamed, count = plan.offload, plan.stage("sample").streamed, HALLO3.trunk.layers
        blocks = f"{offload.resident} of {count}" if offload.resident < count else ALL[offload.passes]
        return blocks, f"{streamed / GB:.1f} GB" if streamed else "nothing", f"{plan.peak / GB:.1f} GB"

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = {int(limit): (blocks.removesuffix(" blocks"), *rest) for limit, blocks, *rest in ROW.findall(text)}
    assert rows == {limit: row(plan) for limit, plan in plans.items()}


def test_the_recorded_counts_are_of_these_plans(plans: dict[int, MemoryPlan]) -> None:
    """Otherwise run ``python -m benchmarks ceilings --json docs/measurements/ceilings.json``."""
    path = REPOSITORY / "docs" / "measurements" / "ceilings.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["ceilings"]
    for row, (limit, plan) in zip(rows, plans.items(), strict=True):
        facts = {"ceiling_gb": limit, "line": plan.line(), "plan": json.loads(json.dumps(plan.as_dict()))}
        assert row.items() >= facts.items()
        assert all(peak <= plan.stage(name).total for name, peak in row["counted"].items())
