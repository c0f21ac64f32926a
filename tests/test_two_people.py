"""Several people in one picture by the Python API, on random weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3.errors import FaceError, InputError
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.speech.dialogue import Turn
from support.short_runs import settings

LEFT, RIGHT = PixelBox(4, 30, 24, 55), PixelBox(40, 30, 60, 55)
FACES = [FaceChoice(box=LEFT), FaceChoice(box=RIGHT)]


def talk(
    portrait: Tensor,
    recordings: Recording | Sequence[Recording | None],
    models: Models,
    faces: Sequence[FaceChoice] = FACES,
    turns: Sequence[Turn] = (),
    **changes: Any,
) -> Tensor:
    options = settings(models, **changes)
    segments = animate(portrait, recordings, "", models, options, faces=faces, turns=turns)
    return torch.cat([segment.pixels for segment in segments])


@pytest.fixture
def voices() -> list[Recording]:
    return [speech_of(24000, "one"), speech_of(10000, "two")]


def test_whose_voice_is_whose_counts_and_their_order_does_not(
    portrait: Tensor, voices: list[Recording], nano: Models
) -> None:
    """The video is as long as the longer recording."""
    video = talk(portrait, voices, nano)
    assert len(video) == 38
    swapped = talk(portrait, voices[::-1], nano, FACES[::-1])
    torch.testing.assert_close(swapped, video, atol=1e-4, rtol=0)
    crossed = talk(portrait, voices[::-1], nano)
    alone = talk(portrait, [voices[0], None], nano)
    for other in (crossed, alone):
        assert not torch.allclose(other, video, atol=1e-3)
    # a voice that has ended is silent
    assert float((video - alone)[:10].abs().mean()) > float((video - alone)[-5:].abs().mean())


def test_saving_memory_changes_no_number(portrait: Tensor, voices: list[Recording], nano: Models) -> None:
    plain = talk(portrait, voices, nano)
    assert torch.equal(plain, talk(portrait, voices, nano, on_access=True))
    for passes in ("sequential", "layer-major"):
        torch.testing.assert_close(talk(portrait, voices, nano, passes=passes), plain, atol=1e-3, rtol=0)


def test_approximations_run(portrait: Tensor, voices: list[Recording], nano: Models) -> None:
    video = talk(portrait, voices, nano, steps=5, step_cache=0.5, step_cache_bound=1.0)
    assert len(video) == 38
    unguided = talk(portrait, voices, nano, guidance_scale=1.0)
    assert bool(unguided.isfinite().all())


def test_one_recording_with_turns(portrait: Tensor, nano: Models) -> None:
    speech = speech_of(24000)
    turns = [Turn(0, 0.8, 1), Turn(0.8, 1.5, 2)]
    video = talk(portrait, speech, nano, turns=turns)
    other = talk(portrait, speech, nano, turns=[replace(turn, number=3 - turn.number) for turn in turns])
    assert len(video) == len(other) == 38
    assert not torch.allclose(video, other, atol=1e-3)


def test_what_cannot_be_is_refused(portrait: Tensor, voices: list[Recording], nano: Models) -> None:
    five = [voices[1]] * 5
    with pytest.raises(InputError, match="1 to 4"):
        talk(portrait, five, nano, FACES * 3)
    with pytest.raises(FaceError, match="2 faces"):
        talk(portrait, [voices[1]] * 3, nano)
    with pytest.raises(FaceError, match="same face"):
        talk(portrait, voices, nano, FACES[:1] * 2)
    with pytest.raises(FaceError, match="does not find several"):
        talk(portrait, voices, nano, ())
    with pytest.raises(InputError, match="single recording"):
        talk(portrait, voices, nano, turns=[Turn(0, 1, 1)])
    with pytest.raises(InputError, match="No one speaks"):
        talk(portrait, [None, None], nano)
    with pytest.raises(InputError, match="inside the recording"):
        talk(portrait, voices[0], nano, turns=[Turn(0, 1, 1), Turn(2, 3, 2)])
    outside = FaceChoice(box=PixelBox(40, 0, 60, 7))  # the middle of the picture is used
    with pytest.raises(FaceError, match="cut off"):
        talk(portrait, voices, nano, [FACES[0], outside])
