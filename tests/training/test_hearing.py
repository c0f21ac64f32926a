"""The speech encoder's stage: trained on the path that is used, on batches that a step's number decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hallo3.config import BUILT_IN
from hallo3.segments import SegmentPlan
from hallo3.speech.wav2vec2 import encode_waveform
from training.hearing import BATCH, MELS, Hearing, Lessons
from training.sounds import Sounds, sounds_named

FRAMES = 40


def voice(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(FRAMES * 640, dtype=np.float32)


@pytest.fixture(scope="module")
def hearing() -> Hearing:
    return Hearing(0)


@pytest.fixture(scope="module")
def sounds() -> Sounds:
    return sounds_named("test", 16000)


def test_it_hears_a_batch_as_the_encoder_hears_one(hearing: Hearing) -> None:
    plan = SegmentPlan(FRAMES, BUILT_IN.segment)
    waveforms = torch.from_numpy(np.stack([voice(0), voice(1)]))
    waveforms = (waveforms - waveforms.mean(1, keepdim=True)) / waveforms.std(1, correction=0, keepdim=True)
    padded = torch.nn.functional.pad(waveforms, (0, (plan.padded - FRAMES) * 640))
    with torch.no_grad():
        batch = hearing.features(padded, plan.padded)
        alone = [encode_waveform(hearing.network, w, plan, torch.device("cpu")) for w in waveforms]
    assert torch.allclose(batch, torch.stack(alone), atol=1e-4)


def test_it_begins_as_the_seed_says_and_leaves_global_randomness_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (Hearing(seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_a_step_has_its_own_batch(sounds: Sounds) -> None:
    lessons = Lessons([voice(0), voice(1)], sounds, torch.ones(MELS, 513), seed=0)
    (heard, targets), (again, _), (other, _) = lessons.batch(5), lessons.batch(5), lessons.batch(6)
    frames = targets.open.shape[1]
    assert heard.shape == (BATCH, frames * 640)
    assert targets.mel.shape == (BATCH, frames, MELS)
    assert torch.equal(heard, again)
    assert heard.shape != other.shape or not torch.equal(heard, other)


def test_noise_is_as_loud_as_asked_for(sounds: Sounds) -> None:
    r = np.random.default_rng(0)
    clean = voice(2)
    added = sounds.with_noise(r, clean, "pink", 20.0) - clean
    assert 20 * np.log10(clean.std() / added.std()) == pytest.approx(20, abs=1.5)
