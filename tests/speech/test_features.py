import itertools
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch

from conftest import speech_of
from hallo3.config import SegmentConfig
from hallo3.models import Models
from hallo3.pipeline import encode_speech
from hallo3.segments import SegmentPlan
from hallo3.speech import features
from hallo3.speech.features import EXACT_MINUTES, WINDOW_MINUTES, Speech, Windows, read_from_memory
from support.messages import expect_message

NANO = SegmentConfig(frames=17, height=32, width=32)
MINUTE = 60 * 25


def test_a_segment_reads_its_own_windows_only() -> None:
    features = torch.arange(1, 100 * 17 + 1, dtype=torch.float32)[:, None, None]
    read, plan = Mock(side_effect=read_from_memory(features)), SegmentPlan(100 * 17, NANO)
    speech = Speech(read, plan, 5)
    for segment in plan:
        windows = speech.segment(segment.index)
        assert windows.shape == (1, 17, 5, 1, 1)
        for slot, window in zip(segment.slots, windows[0, :, :, 0, 0], strict=True):
            near = [min(max(slot + o, 0), plan.padded - 1) + 1 for o in range(-2, 3)]
            assert window.tolist() == ([0] * 5 if slot < 0 else near)
    assert max(len(call.args[0]) for call in read.call_args_list) <= 17 + 4


@torch.inference_mode()
def test_features_have_a_row_for_every_padded_frame_and_loudness_does_not_matter(nano: Models) -> None:
    speech = encode_speech(speech_of(16001), nano)
    assert (speech.plan.frames, speech.plan.padded) == (26, 34)
    features = speech.read(range(34))
    assert features.shape == (34, nano.config.audio.layers, nano.config.audio.channels)
    assert bool(features.isfinite().all())
    for factor in (2.0, 1e-3, 1e6):
        louder = speech_of(16001)
        louder.waveform.mul_(factor)
        assert torch.allclose(encode_speech(louder, nano).read(range(34)), features, atol=2e-3)


@pytest.mark.parametrize("total", [1, 60, 61, 130, 1000])
@pytest.mark.parametrize(("frames", "overlap"), [(60, 0), (60, 1), (60, 20), (60, 59), (1, 0)])
def test_every_frame_is_in_one_window_with_its_neighbours(total: int, frames: int, overlap: int) -> None:
    windows = Windows(frames, overlap).over(total)
    assert [frame for window in windows for frame in range(window.start, window.stop)] == list(range(total))
    for window in windows:
        assert window.last - window.first == min(frames, total)
        assert 0 <= window.first <= window.start < window.stop <= window.last <= total
        assert window.first == 0 or window.start - window.first >= overlap // 2
        assert window.last == total or window.last - window.stop >= overlap // 2
    for before, after in itertools.pairwise(windows):
        assert before.last - after.first >= overlap


def test_windows_that_do_not_advance_are_refused() -> None:
    for frames, overlap in ((60, 60), (60, 61), (60, -1), (0, 0)):
        with pytest.raises(ValueError, match="overlap"):
            Windows(frames, overlap).over(100)


def test_windows_are_for_recordings_that_exceed_one() -> None:
    exact = [("auto", EXACT_MINUTES), ("exact", 10 * EXACT_MINUTES), ("windows", WINDOW_MINUTES - 1)]
    for hearing, minutes in (*exact, ("auto", EXACT_MINUTES + 1), ("windows", WINDOW_MINUTES + 1)):
        plan, told = SegmentPlan(minutes * MINUTE, SegmentConfig()), (hearing, minutes) not in exact
        windows = features.choose_windows(hearing, plan)
        assert (windows is not None) == told
        with expect_message(rf"{minutes} minutes.*approximation.*0\.3 %") if told else nullcontext():
            features.warn_of_windows(windows, plan)
