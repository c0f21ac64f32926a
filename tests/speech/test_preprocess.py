from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3.config import NANO
from hallo3.errors import InputError
from hallo3.media.audio import Recording, to_mono
from hallo3.models import Models
from hallo3.pipeline import encode_speech
from hallo3.segments import SegmentPlan
from hallo3.speech.preprocess import ORIGINAL_PREPROCESSING, SpeechPreprocessing
from support.messages import expect_message


def uneven_recording() -> Recording:
    """A loud passage, room noise, and a passage a tenth as loud."""
    waveform = speech_of(60000).waveform
    waveform[:, 20000:40000] *= 1e-3
    waveform[:, 40000:] *= 0.1
    return Recording(waveform, 16000)


def encode(recording: Recording, models: Models, **options: str) -> Tensor:
    speech = encode_speech(recording, models, SpeechPreprocessing(**options))
    return speech.read(range(speech.plan.padded))


@torch.inference_mode()
def test_the_defaults_are_the_original_bit_for_bit(nano: Models) -> None:
    speech = encode_speech(uneven_recording(), nano)
    for hearing in ("auto", "exact", "windows"):
        same = encode(uneven_recording(), nano, hearing=hearing)
        assert torch.equal(same, speech.read(range(speech.plan.padded)))
        assert SpeechPreprocessing(hearing=hearing).key_facts(SegmentPlan(94, NANO.segment)) == {}
    mono = to_mono(uneven_recording(), 16000)
    waveform, _, gains = ORIGINAL_PREPROCESSING.apply(mono, NANO.segment)
    assert (waveform is mono, gains) == (True, None)


@torch.inference_mode()
@pytest.mark.parametrize("option", [{"level": "evened"}, {"silence": "muted"}])
def test_options_change_the_features_and_not_the_recording(nano: Models, option: dict[str, str]) -> None:
    recording, exact = uneven_recording(), encode(uneven_recording(), nano)
    features = encode(recording, nano, **option)
    assert torch.equal(recording.waveform, uneven_recording().waveform)
    assert features.shape == exact.shape
    assert not torch.equal(features, exact)
    assert bool(features.isfinite().all())


@torch.inference_mode()
@pytest.mark.parametrize("samples", [640, 9000])
@pytest.mark.parametrize("factor", [0.0, 1e-9, 1e-6, 1e9])
def test_features_are_finite_at_any_level(nano: Models, samples: int, factor: float) -> None:
    """A recording that is muted entirely is a warning."""
    recording = speech_of(samples)
    recording.waveform.mul_(factor)
    told = "counts as silence" if factor else "digital silence"
    with expect_message(told) if factor < 1e-3 else nullcontext():
        assert bool(encode(recording, nano, level="evened", silence="muted").isfinite().all())


def test_key_facts_are_what_decides_the_features() -> None:
    short, long = SegmentPlan(100, NANO.segment), SegmentPlan(200 * 1500, NANO.segment)
    for options in ({"level": "evened"}, {"silence": "muted"}):
        assert SpeechPreprocessing(**options).key_facts(short) == options
    for options in ({}, {"hearing": "windows"}):
        assert SpeechPreprocessing(**options).key_facts(long) == {"windows": [60 * 1500, 10 * 1500]}
    assert SpeechPreprocessing(hearing="exact").key_facts(long) == {}


@pytest.mark.parametrize("name", ["level", "silence", "hearing"])
def test_other_words_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"Unknown {name}(.|\n)*'loud'"):
        SpeechPreprocessing(**{name: "loud"})
