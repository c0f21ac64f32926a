"""Feature rows of a clip become the windows of a render."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from hallo3.config import BUILT_IN
from hallo3.segments import SegmentPlan
from hallo3.speech.features import Speech, read_from_memory
from training.clips import feature_rows, make_windows


def test_rows_become_the_windows_of_a_render() -> None:
    plan = SegmentPlan(70, BUILT_IN.segment)
    features = torch.randn(plan.padded, 3, 4, generator=torch.Generator().manual_seed(0))
    speech = Speech(read_from_memory(features), plan, 5)
    for segment in plan:
        index = segment.index
        rows = feature_rows(features, tuple(range(31 * index - 2, 31 * index + 31)), 5)
        if max(segment.slots) < plan.padded - 1:
            windows = make_windows(rows[None], torch.tensor([float(index == 0)]), 5, 2)
            assert torch.equal(windows, speech.segment(index))
