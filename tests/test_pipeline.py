"""The whole way: determinism, independence of segments, and what is held when."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3.errors import AudioError, FaceError, PortraitError
from hallo3.face.analyzer import Face, ThumbnailAnalyzer
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.pipeline import RenderProgress, animate
from support.messages import expect_message
from support.short_runs import refusing, settings, video


def test_frames_are_as_many_as_the_speech_is_long(portrait: Tensor, speech: Recording, nano: Models) -> None:
    seen: list[RenderProgress] = []
    made = list(animate(portrait, speech, "hi", nano, settings(nano), watch=seen.append))
    assert [len(frames.pixels) for frames in made] == [15, 15, 8]
    everything = torch.cat([frames.pixels for frames in made])
    assert everything.shape == (38, 3, 32, 32)
    assert float(everything.min()) >= 0
    assert float(everything.max()) <= 1
    assert float(everything.std()) > 0.05
    assert seen == [RenderProgress(s, 3, i, 2) for s in range(3) for i in (1, 2)]


def test_the_same_inputs_give_the_same_frames_whatever_ran_before(
    portrait: Tensor, speech: Recording, nano: Models
) -> None:
    first = video(portrait, speech, nano, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        video(portrait, speech_of(9000, "another"), nano, seed=6)
        assert torch.equal(first, video(portrait, speech, nano, seed=5))


def test_every_input_counts(portrait: Tensor, speech: Recording, nano: Models) -> None:
    brighter, later = portrait.clone(), speech_of(24000)
    brighter[:, 40, 32] = 1
    later.waveform[0, 12000:12400] *= -1
    videos = [
        video(portrait, speech, nano),
        *(video(portrait, speech, nano, seed=seed) for seed in (2**32, 2**63, 2**64 - 1)),
        video(brighter, speech, nano),
        video(portrait, later, nano),
        video(portrait, speech, nano, "hi"),
        video(portrait, speech, nano, "ho"),
        video(portrait, speech, nano, steps=3),
        video(portrait, speech, nano, guidance_scale=2.0),
        video(portrait, speech, nano, sampler="ddim"),
        video(portrait, speech, nano, posterior="sample"),
        video(portrait, speech, nano, motion_drop=0.5),
    ]
    for index, one in enumerate(videos):
        assert not any(torch.equal(one, other) for other in videos[:index])


def test_saving_memory_changes_no_number(portrait: Tensor, speech: Recording, nano: Models) -> None:
    plain = video(portrait, speech, nano)
    assert torch.equal(plain, video(portrait, speech, nano, on_access=True))
    assert torch.allclose(plain, video(portrait, speech, nano, passes="sequential"), atol=1e-3)


def test_global_state_is_neither_read_nor_changed(portrait: Tensor, speech: Recording, nano: Models) -> None:
    def state() -> list[Any]:
        flags = [torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()]
        return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), flags]

    before, picture, sound = state(), portrait.clone(), speech.waveform.clone()
    made = animate(portrait, speech, "hi", nano, settings(nano))
    next(made)
    assert state() == before
    list(made)
    assert state() == before
    assert torch.equal(picture, portrait)
    assert torch.equal(sound, speech.waveform)


def test_a_long_prompt_is_cut_with_a_word(portrait: Tensor, speech: Recording, nano: Models) -> None:
    with expect_message("101 tokens; the model reads 8, the last 93"):
        long = video(portrait, speech, nano, "y" * 100)
    assert torch.equal(long, video(portrait, speech, nano, "y" * 7))


def test_inputs_are_refused_before_any_network_is_used(portrait: Tensor, nano: Models) -> None:
    nothing = {name: refusing() for name in ("speech", "text", "vae", "reference", "transformer")}
    models = replace(nano, **nothing)
    with pytest.raises(AudioError):
        next(animate(portrait, speech_of(639), "", models, settings(nano)))
    with pytest.raises(PortraitError):
        next(animate(portrait[:, :63], speech_of(16000), "", models, settings(nano)))
    stranger = replace(models, face=ThumbnailAnalyzer(48, space="arcface"))
    with pytest.raises(FaceError, match="space 'arcface'"):
        next(animate(portrait, speech_of(16000), "", stranger, settings(nano)))


class BrokenAnalyzer:
    """An analyzer that answers wrongly."""

    space = "thumbnail"

    def __init__(self, face: Face) -> None:
        self.face = face

    def analyze(self, picture: Tensor) -> Face:
        del picture
        return self.face


@pytest.mark.parametrize(
    "face",
    [
        Face(mask=torch.ones(80, 64), embedding=torch.zeros(1, 47)),
        Face(mask=torch.ones(80, 64), embedding=torch.full((1, 48), float("nan"))),
        Face(mask=torch.ones(8, 8), embedding=torch.zeros(1, 48)),
    ],
)
def test_a_wrong_analyzer_is_caught(portrait: Tensor, speech: Recording, nano: Models, face: Face) -> None:
    with pytest.raises(FaceError):
        next(animate(portrait, speech, "", replace(nano, face=BrokenAnalyzer(face)), settings(nano)))
