"""Settings refuse names that are none, and intervals that guide nothing without saying so."""

from __future__ import annotations

import pytest

from hallo3.errors import InputError
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.settings import Settings


def chosen(steps: int = 5, guidance_scale: float = 3.5, **more: object) -> Settings:
    return Settings(steps=steps, guidance_scale=guidance_scale, sampler="ddim", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GUIDANCE_PASSES)
def test_every_way_of_computing_both_branches_is_known(name: str) -> None:
    assert chosen(passes=name).passes == name


@pytest.mark.parametrize("name", ["Batched", "layer_major", "", "both"])
def test_another_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(InputError, match=" or ".join(GUIDANCE_PASSES)) as raised:
        chosen(passes=name)
    assert raised.value.found == repr(name)
    assert raised.value.fix


@pytest.mark.parametrize(
    ("steps", "interval", "step"),
    [
        (5, (0.45, 0.49), "step 2"),
        (1, (0.0, 0.5), "step 0"),
        (5, (0.3, 0.5), "step 2"),  # halves are rounded to even numbers: a whole step wide, and empty
        (50, (0.995, 1.0), "step 50"),
    ],
)
def test_an_interval_without_a_step_is_refused(steps: int, interval: tuple[float, float], step: str) -> None:
    with pytest.raises(InputError, match="contains no step") as raised:
        chosen(steps, guidance_interval=interval)
    assert step in raised.value.found
    assert raised.value.expected
    assert "scale to 1" in raised.value.fix
    assert not chosen(steps, 1.0, guidance_interval=interval).guided, "nothing is guided anyway"


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 15, 50])
def test_guidance_is_off_only_where_that_is_said(steps: int) -> None:
    shares = [i / 40 for i in range(41)]
    refused = 0
    for start in shares:
        assert not chosen(steps, guidance_interval=(start, start)).guided
        for end in (share for share in shares if share > start):
            empty = round(start * steps) == round(end * steps)
            refused += empty
            if empty:
                with pytest.raises(InputError, match="contains no step"):
                    chosen(steps, guidance_interval=(start, end))
            else:
                assert len(chosen(steps, guidance_interval=(start, end)).guided) > 0
    assert refused or steps == 50
