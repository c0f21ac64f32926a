"""Every exact saving is as near to float64 as the original's way is, whatever the weights are like."""

import pytest

from benchmarks.exactness import KINDS, MAX_RATIO, SAVINGS, measure_errors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("measure", ["block", "step"])
def test_a_saving_is_as_exact_as_the_original_s_way(measure: str, kind: str) -> None:
    errors = measure_errors(kind, measure, 4)
    original = errors.pop("original")
    assert 1e-3 < original < 0.1, "bfloat16 was not bfloat16"
    assert {name: error / original for name, error in errors.items() if error > MAX_RATIO * original} == {}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.soak] * (kind != "heavy-tailed")) for kind in KINDS]
)
def test_fifty_steps_are_as_exact(kind: str) -> None:
    """All savings together, the sampler's noise the same. One draw: rounding is luck, hence the wider
    bound; the bench has the figures (docs/measurements/exactness.json)."""
    errors = measure_errors(kind, "trajectory", 1, {"all": SAVINGS["layer by layer"]})
    assert errors["all"] <= 1.15 * errors["original"]
