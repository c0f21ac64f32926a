"""Speech features and how segments ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3.config import SegmentConfig
from hallo3.errors import CheckpointError
from hallo3.models import Models
from hallo3.pipeline import encode_speech
from hallo3.segments import SegmentPlan
from hallo3.speech.features import Speech, in_memory
from hallo3.speech.wav2vec2 import build_wav2vec2, normalize, pad_to_segments
from support.messages import expect_message

NANO = SegmentConfig(frames=17, height=32, width=32)


def test_segments_ask_for_what_they_hear_and_no_more() -> None:
    """A long recording can live in a file: no question spans more than a segment and its windows."""
    features = torch.arange(1, 100 * 17 + 1, dtype=torch.float32)[:, None, None]
    asked: list[Sequence[int]] = []

    def read(frames: Sequence[int]) -> Tensor:
        asked.append(frames)
        return in_memory(features)(frames)

    plan = SegmentPlan(100 * 17, NANO)
    speech = Speech(read, plan, 5)
    for segment in plan:
        windows = speech.segment(segment.index)
        assert windows.shape == (1, 17, 5, 1, 1)
        for slot, window in zip(segment.slots, windows[0, :, :, 0, 0], strict=True):
            around = (
                [0] * 5 if slot < 0 else [min(max(slot + o, 0), plan.padded - 1) + 1 for o in range(-2, 3)]
            )
            assert window.tolist() == around
    assert max(len(frames) for frames in asked) <= 17 + 4


@torch.inference_mode()
def test_features_have_a_row_for_every_padded_frame(nano: Models) -> None:
    speech = encode_speech(speech_of(16001), nano)
    assert speech.plan.frames == 26
    features = speech.read(range(speech.plan.padded))
    assert features.shape == (34, nano.config.audio.layers, nano.config.audio.channels)
    assert bool(features.isfinite().all())


@torch.inference_mode()
@pytest.mark.parametrize("factor", [2.0, 1e-3, 1e3])
def test_loudness_does_not_matter(nano: Models, factor: float) -> None:
    quiet, loud = speech_of(16000), speech_of(16000)
    loud.waveform.mul_(factor)
    one, other = (encode_speech(recording, nano).read(range(34)) for recording in (quiet, loud))
    assert torch.allclose(one, other, atol=2e-3)


@torch.inference_mode()
def test_digital_silence_is_told_and_survives(nano: Models) -> None:
    recording = speech_of(8000)
    recording.waveform.zero_()
    with expect_message("silence"):
        speech = encode_speech(recording, nano)
    assert bool(speech.read(range(17)).isfinite().all())


def test_normalising_uses_the_population_variance() -> None:
    assert torch.allclose(normalize(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))


def test_padding_is_whole_frames_after_normalising() -> None:
    padded = pad_to_segments(torch.ones(16001), SegmentPlan(26, NANO))
    assert len(padded) == 16001 + (34 - 26) * 640
    assert not padded[16001:].any()
    assert len(pad_to_segments(torch.ones(17 * 640), SegmentPlan(17, NANO))) == 17 * 640


def test_only_sizes_are_read_from_a_configuration() -> None:
    for field in ("_attn_implementation_internal", "auto_map", "torchscript", "do_stable_layer_norm"):
        with pytest.raises(CheckpointError, match=field):
            build_wav2vec2({field: True})
