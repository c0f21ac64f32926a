"""Counts of a step at full size, on meta."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.counts import ORIGINAL, Tracker, count_step, draw_cost
from conftest import REPOSITORY
from hallo3.config import HALLO3
from hallo3.model.guidance import GUIDANCE_PASSES


@pytest.fixture(scope="module")
def counts() -> dict[str, Any]:
    """Each block costs the same: of all 42, from what a fourth one adds to three."""

    def extend(three: Any, four: Any) -> Any:
        if isinstance(three, dict):
            return {name: extend(three[name], four[name]) for name in three if name in four}
        return three if isinstance(three, str) else three + (HALLO3.trunk.layers - 3) * (four - three)

    return extend(*(count_step(replace(HALLO3, trunk=replace(HALLO3.trunk, layers=n))) for n in (3, 4)))


@pytest.fixture(scope="module")
def ledger() -> dict[str, Any]:
    return json.loads((REPOSITORY / "docs" / "measurements" / "ledger.json").read_text(encoding="utf-8"))


def test_the_ledger_has_these_counts(counts: dict[str, Any], ledger: dict[str, Any]) -> None:
    """Otherwise run ``make bench``; the ledger counts all blocks."""
    assert counts["flop"] == pytest.approx(ledger["flop"])
    for name, step in ledger["steps"].items():
        assert {k: counts["steps"][name][k] for k in ("bytes", "peak", "operations")} == {
            k: step[k] for k in ("bytes", "peak", "operations")
        }


def test_the_baseline_costs_what_the_original_costs(counts: dict[str, Any]) -> None:
    """So that what is counted here can be compared with what was counted there."""
    assert counts["flop"]["baseline"] == pytest.approx(ORIGINAL["flop"], rel=1e-4)
    assert counts["steps"]["baseline"]["bytes"] == pytest.approx(ORIGINAL["bytes"], rel=0.02)


def test_a_step_costs_no_more_than_the_ledger_allows(counts: dict[str, Any]) -> None:
    assert counts["ratio"] <= 0.927
    assert counts["flop"]["of it attention"] > 3.4e14, "attention was not counted"
    steps = counts["steps"]
    most = {"batched": 0.55e12}
    assert all(steps[f"fused, {name}"]["bytes"] <= most.get(name, 0.56e12) for name in GUIDANCE_PASSES)
    peaks = {"fused, sequential": 0.9e9, "fused, layer-major": 1.0e9, "plain, sequential": 1.15e9}
    assert all(steps[name]["peak"] <= most for name, most in peaks.items())


def test_a_fused_kernel_counts_by_its_inputs_and_outputs(ledger: dict[str, Any]) -> None:
    """42 blocks: norm + modulation twice, gates twice, one GELU. None of them takes more in than it says."""
    fused = ledger["steps"]["fused, batched"]["by_operation"]
    width, tokens, size = HALLO3.trunk.width, 17776, 2
    token_bytes = 2 * tokens * width * size
    video_bytes = token_bytes * 17550 // tokens
    per_block = {"adaln_modulate": 2 * 2 * token_bytes, "gated_residual_norm": 4 * video_bytes}
    per_block["gated_residual"] = 2 * 3 * token_bytes - 3 * video_bytes
    per_block["linear_gelu"] = 5 * token_bytes + 4 * width**2 * 2
    for name, count in per_block.items():
        assert fused[f"hallo3.{name}.default"] == pytest.approx(42 * count, rel=0.01)


def test_operations_count_what_they_read_and_write() -> None:
    matrix = torch.empty(100, 10, device="meta")
    with Tracker() as tracker:
        result = matrix + matrix[:, :1].expand(100, 10)
    assert tracker.traffic == 4 * (1000 + 100 + 1000)
    assert (tracker.operations, tracker.live) == (1, 4000)
    with Tracker() as tracker:
        result.add_(1)
        result.view(10, 100)
        torch.add(matrix, matrix, out=result)
    assert tracker.traffic == 4 * (2000 + 3000)
    assert tracker.live == 0


def test_a_copy_inside_an_operation_counts() -> None:
    """Heads of [tokens, heads, channels] times their keys: torch copies the heads first."""
    q, k = torch.empty(2, 5, 3, 8, device="meta").transpose(1, 2), torch.empty(3, 8, 4, device="meta")
    with torch.inference_mode():
        with Tracker() as tracker:
            torch.matmul(q, k)
        assert torch.is_inference_mode_enabled()
    assert tracker.moved["aten.clone.default"] >= 2 * q.nbytes
    assert tracker.peak >= q.nbytes + 4 * 2 * 3 * 5 * 4


def test_the_peak_is_what_is_held_at_once() -> None:
    with Tracker() as tracker:
        first = torch.empty(1000, device="meta")
        second = first + 1
        del first
        third = second[:10]
        del second
        assert tracker.live == 4000, "a view holds what it looks at"
        del third
    assert (tracker.peak, tracker.live) == (8000, 0)


def test_bars_are_as_long_as_their_values() -> None:
    """The longest bar is the original's, the next our plain kernels'."""
    ledger = json.loads((REPOSITORY / "docs" / "measurements" / "ledger.json").read_text())
    picture = draw_cost(ledger)
    colours = (torch.tensor(rgb)[:, None, None] / 255 for rgb in ((0x8A, 0x83, 0x78), (0x00, 0x72, 0xB2)))
    longest, next_one = (int((picture - rgb).abs().amax(0).lt(0.02).sum(1).max()) for rgb in colours)
    moved = ledger["steps"]["plain, batched"]["bytes"] / ledger["original"]["bytes"]
    assert next_one / longest == pytest.approx(max(ledger["ratio"], moved), abs=0.01)
