"""How a recording is listened to, from Python."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

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
from hallo3.speech import preprocess as module
from hallo3.speech.features import Windows
from hallo3.speech.preprocess import ORIGINAL_PREPROCESSING, SpeechPreprocessing
from support.messages import expect_message


def uneven() -> Recording:
    """A loud passage, a room, and a passage a tenth as loud."""
    waveform = speech_of(60000).waveform
    waveform[:, 20000:40000] *= 1e-3
    waveform[:, 40000:] *= 0.1
    return Recording(waveform, 16000)


def features(models: Models, listening: SpeechPreprocessing = ORIGINAL_PREPROCESSING) -> Tensor:
    speech = encode_speech(uneven(), models, listening)
    return speech.read(range(speech.plan.padded))


@torch.inference_mode()
def test_the_defaults_are_the_original_s_bit_for_bit(nano: Models) -> None:
    wanted = features(nano)
    for same in (
        SpeechPreprocessing(),
        SpeechPreprocessing(hearing="exact"),
        SpeechPreprocessing(hearing="windows"),
    ):
        assert torch.equal(features(nano, same), wanted)
        assert same.facts(SegmentPlan(94, NANO.segment)) == {}
    mono = to_mono(uneven(), 16000)
    assert ORIGINAL_PREPROCESSING.hear(mono, NANO.segment) is mono


@torch.inference_mode()
@pytest.mark.parametrize(
    "listening", [SpeechPreprocessing(level="evened"), SpeechPreprocessing(silence="muted")]
)
def test_other_choices_are_heard_and_leave_the_recording_alone(
    nano: Models, listening: SpeechPreprocessing
) -> None:
    recording = uneven()
    before = recording.waveform.clone()
    speech = encode_speech(recording, nano, listening)
    found = speech.read(range(speech.plan.padded))
    assert torch.equal(recording.waveform, before)
    assert found.shape == features(nano).shape
    assert not torch.equal(found, features(nano))
    assert bool(found.isfinite().all())


@torch.inference_mode()
@pytest.mark.parametrize("samples", [640, 9000])
@pytest.mark.parametrize("factor", [0.0, 1e-9, 1e9])
def test_anything_is_heard_in_finite_numbers(nano: Models, samples: int, factor: float) -> None:
    recording = speech_of(samples)
    recording.waveform.mul_(factor)
    every = SpeechPreprocessing(level="evened", silence="muted")
    if factor == 1e9:
        speech = encode_speech(recording, nano, every)
    else:
        with expect_message("silence"):
            speech = encode_speech(recording, nano, every)
    assert bool(speech.read(range(speech.plan.padded)).isfinite().all())


@torch.inference_mode()
def test_windows_are_told_and_their_files_go(
    nano: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def small(hearing: str, plan: SegmentPlan) -> Windows:
        assert (hearing, plan.frames) == ("windows", 94)
        return Windows(40, 10)

    monkeypatch.setattr(module, "windows_for", small)
    with expect_message("approximation"):
        speech = encode_speech(uneven(), nano, SpeechPreprocessing(hearing="windows"))
    found = speech.read(range(speech.plan.padded))
    monkeypatch.undo()
    exact = features(nano)
    assert found.shape == exact.shape
    assert 0 < float((found - exact).square().mean() / exact.var()) < 0.3
    assert len(list(tmp_path.iterdir())) == 1
    del speech
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_facts_are_what_decides_the_features() -> None:
    short, long = SegmentPlan(100, NANO.segment), SegmentPlan(200 * 1500, NANO.segment)
    assert SpeechPreprocessing(level="evened").facts(short) == {"level": "evened"}
    assert SpeechPreprocessing(silence="muted").facts(short) == {"silence": "muted"}
    windows = {"windows": [60 * 1500, 10 * 1500]}
    assert SpeechPreprocessing().facts(long) == SpeechPreprocessing(hearing="windows").facts(long) == windows
    assert SpeechPreprocessing(hearing="exact").facts(long) == {}


@pytest.mark.parametrize("name", ["level", "silence", "hearing"])
def test_other_words_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"listened to like that(.|\n)*{name} 'loud'"):
        SpeechPreprocessing(**{name: "loud"})
