"""Counts at full size; times are the bench's business."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from hallo3.presets import HALLO3


def test_a_step_costs_no_more_than_the_ledger_allows() -> None:
    import ledger

    counts = ledger.count(HALLO3)
    assert counts["ratio"] <= 0.958
    assert counts["step_by_operation"]["aten.bmm"] > 3.4e14, "attention was not counted"
