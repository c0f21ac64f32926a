"""Training of the speech encoder uses the render's encoder call; a step's number decides its batch."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hallo3.config import BUILT_IN
from hallo3.segments import SegmentPlan
from hallo3.speech.encoder import encode_waveform
from hallo3.speech.wav2vec2 import split_wav2vec2
from training.augment import make_augmenter
from training.speech_encoder import BATCH_SIZE, MEL_BANDS, CropSampler, SpeechModel

FRAMES = 40


def voice(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(FRAMES * 640, dtype=np.float32)


def test_a_batch_equals_the_encoder_on_each_sample() -> None:
    model, plan = SpeechModel(0), SegmentPlan(FRAMES, BUILT_IN.segment)
    waveforms = torch.from_numpy(np.stack([voice(0), voice(1)]))
    waveforms = (waveforms - waveforms.mean(1, keepdim=True)) / waveforms.std(1, correction=0, keepdim=True)
    padded = torch.nn.functional.pad(waveforms, (0, (plan.padded - FRAMES) * 640))
    with torch.no_grad():
        batch = model.features(padded, plan.padded)
        parts = split_wav2vec2(model.network)
        alone = [encode_waveform(parts, w, plan, torch.device("cpu")) for w in waveforms]
    assert torch.allclose(batch, torch.stack(alone), atol=1e-4)


def test_the_seed_decides_the_first_weights_and_global_randomness_is_untouched() -> None:
    before = torch.get_rng_state()
    one, same, other = (SpeechModel(seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_the_step_decides_the_batch_and_noise_has_its_level() -> None:
    augmenter = make_augmenter("test", 16000)
    sampler = CropSampler([voice(0), voice(1)], augmenter, torch.ones(MEL_BANDS, 513), seed=0)
    (first, targets), (again, _), (other, _) = (sampler.draw_batch(step) for step in (5, 5, 6))
    frames = targets.open.shape[1]
    assert first.shape == (BATCH_SIZE, frames * 640)
    assert targets.mel.shape == (BATCH_SIZE, frames, MEL_BANDS)
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)
    clean = voice(2)
    noise = augmenter.add_noise(np.random.default_rng(0), clean, "pink", 20.0) - clean
    assert 20 * np.log10(clean.std() / noise.std()) == pytest.approx(20, abs=1.5)
