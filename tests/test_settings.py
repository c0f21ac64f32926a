"""Settings: what is refused, which steps are guided, and what approximations leave out of a run."""

from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.errors import InputError
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.pipeline import RenderProgress, animate
from hallo3.settings import APPROXIMATIONS, Settings, get_approximations
from support.short_runs import settings, video


def chosen(steps: int = 5, guidance_scale: float = 3.5, sampler: str = "ddim", **more: Any) -> Settings:
    return Settings(steps=steps, guidance_scale=guidance_scale, sampler=sampler, **more)


def test_values_out_of_range_are_refused() -> None:
    for name, value in (
        ("steps", 1001),
        ("seed", 2**64),
        ("guidance_scale", float("inf")),
        ("motion_drop", float("nan")),
        ("guidance_interval", (0.5, 0.2)),
        ("guidance_interval", (-0.1, 1.0)),
        ("step_cache", 1.5),
        ("step_cache_bound", float("nan")),
    ):
        with pytest.raises(InputError, match=rf"The .*{name.split('_')[0]}.* is out of range") as raised:
            chosen(**{name: value})
        assert raised.value.found
        assert " to " in raised.value.expected
    for name, value, names in (
        ("passes", "layer_major", "batched or sequential or layer-major"),
        ("sampler", "euler", "dpmpp_2m_sde or ddim or dpmpp_2m"),
        ("posterior", "", "mean or sample"),
    ):
        with pytest.raises(InputError, match="Unknown") as raised:
            chosen(**{name: value})
        assert (raised.value.found, raised.value.expected) == (repr(value), names)


def test_an_interval_without_a_step_is_refused() -> None:
    for steps, interval, step in (
        (5, (0.45, 0.49), "step 2"),
        (1, (0.0, 0.5), "step 0"),
        (5, (0.3, 0.5), "step 2"),  # halves are rounded to even numbers: a whole step wide, and empty
        (50, (0.995, 1.0), "step 50"),
    ):
        with pytest.raises(InputError, match="contains no step") as raised:
            chosen(steps, guidance_interval=interval)
        assert step in raised.value.found
        assert raised.value.expected
        assert "scale to 1" in raised.value.fix
        assert not chosen(steps, 1.0, guidance_interval=interval).guided, "nothing is guided anyway"


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 15, 50])
def test_guidance_is_off_only_where_both_ends_are_equal(steps: int) -> None:
    shares, refused = [i / 40 for i in range(41)], 0
    for start, end in combinations_with_replacement(shares, 2):
        if start < end and round(start * steps) == round(end * steps):
            refused += 1
            with pytest.raises(InputError, match="contains no step"):
                chosen(steps, guidance_interval=(start, end))
        else:
            assert bool(chosen(steps, guidance_interval=(start, end)).guided) == (start < end)
    assert refused or steps == 50


FIFTY = Settings(steps=50, guidance_scale=3.5, sampler="dpmpp_2m_sde")


def passes(portrait: Tensor, speech: Recording, nano: Models, **changes: Any) -> list[int]:
    """Branches of every forward pass of the first segment."""
    batches: list[int] = []
    with nano.transformer as dit:
        hook = dit.proj_out.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    try:
        next(animate(portrait, speech, "", nano, settings(nano, **changes)))
    finally:
        hook.remove()
    return batches


def test_an_empty_interval_is_guidance_of_one(portrait: Tensor, speech: Recording, nano: Models) -> None:
    empty = video(portrait, speech, nano, steps=3, guidance_interval=(0.5, 0.5))
    assert torch.equal(empty, video(portrait, speech, nano, steps=3, guidance_scale=1.0))


@pytest.mark.parametrize("each", ["batched", "sequential", "layer-major"])
def test_one_branch_outside_an_interval(portrait: Tensor, speech: Recording, nano: Models, each: str) -> None:
    intervals = {(0.0, 1.0): "22222", (0.2, 0.8): "12221", (0.6, 1.0): "11122", (0.4, 0.4): "11111"}
    for interval, branches in intervals.items():
        actual = passes(portrait, speech, nano, steps=5, guidance_interval=interval, passes=each)
        expected = [int(branch) for branch in branches]
        assert sum(actual) == sum(expected) == settings(nano, steps=5, guidance_interval=interval).evaluations
        assert actual == expected or each != "batched"


def test_the_step_cache_computes_what_it_reports(portrait: Tensor, speech: Recording, nano: Models) -> None:
    progress: list[RenderProgress] = []
    changes = {"steps": 12, "sampler": "dpmpp_2m", "step_cache": 1.0, "step_cache_bound": 1.0}
    computed = len(passes(portrait, speech, nano, **changes))
    list(animate(portrait, speech, "", nano, settings(nano, **changes), watch=progress.append))
    assert [each.step for each in progress] == [*range(1, 13)] * 3
    for report in (each.cache for each in progress if each.step == 12):
        assert report.steps == 12, "every segment has a cache of its own"
        assert report.reused == 12 - computed > 0
    next(animate(portrait, speech, "", nano, settings(nano), watch=progress.append))
    assert progress[-1].cache is None


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_each_leaves_work_out_of_the_originals_run(name: str) -> None:
    row = APPROXIMATIONS[name]
    assert row.saves(FIFTY)
    after = row.apply(FIFTY)
    assert {field for field in row.changes if getattr(after, field) == getattr(FIFTY, field)} == set()
    assert row.saves(after) is False
    few = chosen(8)
    if "steps" in row.changes:
        assert row.apply(few) == few, "fewer steps stay"
        assert not row.saves(few)


def test_names_come_once_and_in_one_order() -> None:
    names = ["step-cache", "guidance-middle", "steps-20", "step-cache"]
    assert [row.name for row in get_approximations(names)] == ["steps-20", "guidance-middle", "step-cache"]
    assert get_approximations([]) == ()
