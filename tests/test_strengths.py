"""Strengths of text and voice: curves, how many branches they need, and what they make of a video."""

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3.config import Defaults
from hallo3.errors import InputError
from hallo3.media.audio import Recording
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.sampling.samplers import CONDITIONAL, PAIR, TEXT, UNCONDITIONAL
from hallo3.sampling.strengths import Strengths, combine, parse_curve
from hallo3.script import parse_script
from hallo3.settings import settings_for
from support.messages import expect_message
from support.short_runs import settings, video

ALL = UNCONDITIONAL, TEXT, CONDITIONAL
DEFAULTS = Defaults()


def strengths(text: float | str, voice: float | str) -> Strengths:
    return Strengths(parse_curve(text, "text strength"), parse_curve(voice, "voice strength"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2", {0: 2, 1e6: 2}),
        (" 0:1, 30:1.5 ", {0: 1, 15: 1.25, 30: 1.5, 99: 1.5}),
        ("10s:1,20s:3", {0: 1, 10: 1, 12.5: 1.5, 20: 3}),
        ("0:1, 10:1, 10:3", {9: 1, 10: 3, 11: 3}),
        ("50%:0, 100%:4", {0: 0, 50: 0, 75: 2, 100: 4}),
        ("3:2, 9:2", {0: 2, 5: 2}),
    ],
)
def test_curves(text: str, values: dict[float, float]) -> None:
    curve = parse_curve(text, "voice strength")
    assert {place: curve.at(place) for place in values} == values
    assert parse_curve(curve.text(), "voice strength") == curve


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "nothing"),
        ("strong", "strong"),
        ("1;2", "1;2"),
        ("1:30:2", "1:30:2"),
        ("0:1,,3:1", "an empty point"),
        ("0:1,", "an empty point"),
        (":2", ":2"),
        ("0:", "0:"),
        ("x:2", "x:2"),
        ("-1:2", "-1:2"),
        ("inf:2", "inf:2"),
        ("nan:2", "nan:2"),
        ("120%:2", "120%:2"),
        ("0:1, 50%:2", "seconds and percent"),
        ("5:1, 2:2", "2:2 after 5:1"),
        ("5:1, 5:2, 5:3", "three points at 5"),
        (",".join(f"{n}:1" for n in range(1001)), "1001 points"),
        ("nan", "nan"),
        ("-1", "-1"),
        ("0:101", "101"),
    ],
)
@pytest.mark.parametrize("which", ["text", "voice"])
def test_a_malformed_curve_is_a_sentence(text: str, found: str, which: str) -> None:
    given: dict[str, Any] = {f"{which}_strength": text}
    with pytest.raises(InputError, match=f"The {which} strength (cannot be read|is out of range)") as raised:
        settings_for(DEFAULTS, **given)
    assert found in raised.value.found
    assert raised.value.expected
    assert raised.value.fix


def test_only_needed_branches_are_predicted_and_their_sum_is_the_same() -> None:
    """u + s (t - u) + v (c - t), without the branches that count nothing."""
    draw = random.Random(1)
    u, t, c = (draw.uniform(-1, 1) for _ in range(3))
    for text in (0.0, 0.5, 1.0, 2.0, 3.5):
        for voice in (0.0, 0.5, 1.0, 2.0, 3.5):
            branches, scales = combine(text, voice)
            values = [{UNCONDITIONAL: u, TEXT: t, CONDITIONAL: c}[each] for each in branches]
            found = values[0] + sum(s * (b - a) for s, (a, b) in zip(scales, pairwise(values), strict=True))
            assert found == pytest.approx(u + text * (t - u) + voice * (c - t))
            parts = 1 - text, text - voice, voice
            assert len(branches) == sum(part != 0 for part in parts)
    assert combine(3.5, 3.5).branches == PAIR
    assert combine(2.0, 3.5).branches == ALL


def test_equal_strengths_are_a_guidance_scale() -> None:
    plain = settings_for(DEFAULTS, guidance_scale=2.5)
    assert settings_for(DEFAULTS, text_strength="2.5", voice_strength=2.5) == plain
    assert settings_for(DEFAULTS, guidance_scale=2.5, voice_strength="0:2.5, 9:2.5") == plain
    assert settings_for(DEFAULTS, voice_strength=2.5, text=False) == plain
    with expect_message("text strength has no effect: there is no prompt"):
        assert settings_for(DEFAULTS, text_strength=9, voice_strength=2.5, text=False) == plain
    one = settings_for(DEFAULTS, voice_strength=2.0)
    assert (one.strengths, one.branches) == (strengths(DEFAULTS.guidance_scale, 2.0), 3)


def test_evaluations() -> None:
    def count(**given: Any) -> int:
        chosen = settings_for(DEFAULTS, steps=50, **given)
        return chosen.count_evaluations([0.0, 1.88, 3.76], [True, True, False])

    assert count() == 300
    assert count(voice_strength=2.0) == 150 + 150 + 100
    assert count(voice_strength=0.0) == 100 + 100 + 50
    assert count(voice_strength="0:3.5, 1:3.5, 1:2") == 100 + 150 + 100
    assert count(voice_strength="0%:3.5, 50%:3.5, 50%:1") == 2 * (50 + 75) + 75
    assert settings_for(DEFAULTS, steps=50, voice_strength="0:3.5, 1:2").evaluations == 150


def test_without_text_the_voice_is_guided_alone(portrait: Tensor, speech: Recording, nano: Models) -> None:
    """Bit for bit the run of two branches, whatever the strength of the text."""
    plain = video(portrait, speech, nano, guidance_scale=2.0)
    assert torch.equal(plain, video(portrait, speech, nano, strengths=strengths(3.0, 2.0)))


@pytest.mark.parametrize("passes", GUIDANCE_PASSES)
def test_equal_strengths_are_two_branches(
    portrait: Tensor, speech: Recording, nano: Models, passes: str
) -> None:
    """A third branch whose strength differs by a rounding changes nothing that can be seen."""
    plain = video(portrait, speech, nano, "hi", guidance_scale=2.0)
    third = video(portrait, speech, nano, "hi", strengths=strengths(2.0 + 1e-9, 2.0), passes=passes)
    assert torch.allclose(plain, third, atol=1e-4)
    other = video(portrait, speech, nano, "hi", strengths=strengths(0.5, 2.0), passes=passes)
    assert not torch.allclose(plain, other, atol=1e-3)


def test_without_voice_the_speech_is_not_heard(portrait: Tensor, nano: Models) -> None:
    one, other = (
        video(portrait, speech_of(24000, name), nano, "hi", strengths=strengths(2.0, 0.0))
        for name in ("one", "other")
    )
    assert torch.equal(one, other)


def test_a_curve_over_the_video_changes_later_segments(
    portrait: Tensor, speech: Recording, nano: Models
) -> None:
    """Not before its first change."""
    given = {"steps": 2, "guidance_scale": 2.0}
    plain = video(portrait, speech, nano, "hi", **given)
    turned = video(portrait, speech, nano, "hi", **given, strengths=strengths(2.0, "0.6:2, 0.6:4"))
    assert torch.equal(plain[:15], turned[:15])
    assert not torch.allclose(plain[15:], turned[15:], atol=1e-3)


def test_a_curve_over_the_steps(portrait: Tensor, speech: Recording, nano: Models) -> None:
    """Guidance in the first half of the steps is the guidance interval."""
    given = {"steps": 4, "guidance_scale": 2.0}
    interval = video(portrait, speech, nano, "hi", **given, guidance_interval=(0.0, 0.5))
    curve = "0%:2, 50%:2, 50%:1"
    assert torch.equal(
        interval, video(portrait, speech, nano, "hi", **given, strengths=strengths(curve, curve))
    )


def test_approximations_work_with_strengths(portrait: Tensor, speech: Recording, nano: Models) -> None:
    """Outside of a guidance interval nothing counts more than once; steps from which a strength is another
    are computed."""
    chosen = settings(nano, steps=10, guidance_interval=(0.3, 0.9), strengths=strengths(3.0, 0.5))
    assert [len(each.branches) for each in chosen.guidance()] == [2] * 3 + [3] * 6 + [2]
    assert chosen.guidance()[0] == combine(1.0, 0.5)
    jump, computed = 6, []
    changes = {"steps": 12, "sampler": "dpmpp_2m", "step_cache": 1.0, "step_cache_bound": 1.0}
    for curve in (3.0, "0%:3, 50%:3, 50%:2.9"):
        run = settings(nano, **changes, strengths=strengths(1.5, curve))
        progress: list[Any] = []
        next(animate(portrait, speech, "hi", nano, run, watch=progress.append))
        before, after = (progress[step].cache for step in (jump - 1, jump))
        computed.append(after.reused == before.reused)
    assert computed == [False, True]


def test_segments_without_a_prompt_need_no_branch_of_text(
    portrait: Tensor, speech: Recording, nano: Models
) -> None:
    """Of a script: a cue in the first of three segments, and no prompt after it."""
    script, batches = parse_script("[0:00-0:00.5] hi"), list[int]()
    with nano.transformer as dit:
        hook = dit.proj_out.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    try:
        list(
            animate(portrait, speech, "", nano, settings(nano, strengths=strengths(3.0, 2.0)), script=script)
        )
    finally:
        hook.remove()
    assert batches == [3, 3, 2, 2, 2, 2]
