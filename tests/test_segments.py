"""The plan: every audio frame once, in exact integers."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3.config import SegmentConfig
from hallo3.errors import AudioError
from hallo3.segments import SILENT, SegmentPlan, cut_in_pauses, frame_count, plan_segments, trial_segment

REAL = SegmentConfig()
NANO = SegmentConfig(frames=17, height=32, width=32)


@pytest.mark.parametrize("config", [REAL, NANO], ids=["real", "nano"])
def test_every_frame_is_used_once(config: SegmentConfig) -> None:
    new = config.new_frames
    for frames in (*range(1, 1001), *range(4950, 5001)):
        plan = SegmentPlan(frames, config)
        assert len(plan) == ceil(Fraction(frames, new))
        shown: list[int] = []
        for segment in plan:
            assert len(segment.slots) == config.frames
            shown += segment.slots[segment.keep]
        assert shown == list(range(frames))


def test_prefixes_overlap_the_segment_before_and_other_indices_are_errors() -> None:
    plan = SegmentPlan(200, REAL)
    assert plan[0].slots[:2] == (SILENT, SILENT)
    for before, segment in pairwise(plan):
        assert segment.slots[:2] == before.slots[-2:]
    for index in (len(plan), -1):
        with pytest.raises(IndexError):
            plan[index]


@given(samples=st.integers(640, 10**10))
def test_frames_are_counted_exactly(samples: int) -> None:
    """The original's float counts one more: 4480 samples are exactly 7 frames (docs/numerics.md)."""
    assert frame_count(samples, 16000, 25) == ceil(Fraction(samples * 25, 16000))
    assert (frame_count(4480, 16000, 25), ceil(4480 / 16000 * 25)) == (7, 8)


@pytest.mark.parametrize("samples", [0, 1, 639])
def test_less_than_a_frame_is_refused(samples: int) -> None:
    with pytest.raises(AudioError, match=f"{samples} samples"):
        plan_segments(samples, REAL)


def test_the_padding_fills_whole_groups() -> None:
    assert [SegmentPlan(n, REAL).padded for n in (1, 48, 49, 50, 98)] == [49, 49, 49, 98, 98]


def test_a_trial_has_a_small_canvas_of_the_same_shape() -> None:
    for own, frames, height, width in (
        (REAL, 9, 64, 96),
        (NANO, 9, 32, 32),
        (SegmentConfig(height=64, width=64), 9, 64, 64),
        (SegmentConfig(height=768, width=512, frames=5), 5, 96, 64),
        (SegmentConfig(height=480, width=704), 9, 240, 352),  # 15 : 22
        (SegmentConfig(height=496, width=704), 9, 496, 704),  # 31 : 44
    ):
        assert trial_segment(own) == replace(own, frames=frames, height=height, width=width)


@st.composite
def recordings(draw: st.DrawFn) -> list[bool]:
    """Whether each frame is silent: runs of speech and silence."""
    runs = draw(st.lists(st.integers(1, 90), min_size=1, max_size=20))
    first = draw(st.booleans())
    return [bool((n + first) % 2) for n, length in enumerate(runs) for _ in range(length)]


@settings(max_examples=200, deadline=None)
@given(recordings(), st.booleans(), st.none() | st.integers(1, 60), st.sampled_from([REAL, NANO]))
def test_seams_keep_the_laws(
    silent: list[bool], pauses: bool, chapters: int | None, config: SegmentConfig
) -> None:
    frames, new, plain = len(silent), config.new_frames, SegmentPlan(len(silent), config)
    plan = cut_in_pauses(plain, silent, pauses=pauses, chapters=chapters, fade=5)
    assert plan == cut_in_pauses(plain, list(silent), pauses=pauses, chapters=chapters, fade=5)
    shown = [frame for segment in plan for frame in segment.slots[segment.keep]]
    assert shown == list(range(frames)), "every frame once, in order"
    assert plan.padded == plain.padded
    assert plan.starts == sorted({*plan.starts})
    ends = [*plan.starts[1:], frames]
    for segment, start, stop in zip(plan, plan.starts, ends, strict=True):
        assert 1 <= stop - start <= new
        assert len(segment.slots) == config.frames
        assert segment.afresh == (start in plan.chapters)
        before = [SILENT if segment.afresh or frame < 0 else frame for frame in (start - 2, start - 1)]
        assert list(segment.slots[:2]) == before
        if stop == frames or stop in plan.chapters:
            continue
        reachable = [at for at in range(start + new, start + -(-new // 2) - 1, -1) if silent[at]]
        assert stop == (reachable[0] if pauses and reachable else start + new), "the longest reach"
    if not pauses and chapters is None:
        assert plan == plain
    for chapter in plan.chapters:
        assert silent[chapter]
        assert chapters is not None
        left = next(n for n in range(chapter, -1, -1) if not silent[n])
        right = next(n for n in range(chapter, frames) if not silent[n])
        assert right - left - 1 >= chapters
        assert abs((left + 1 + right) // 2 - chapter) == 0


def test_seams_of_a_plan_by_hand() -> None:
    silent = [30 <= n < 38 or 60 <= n < 63 or 100 <= n < 150 for n in range(200)]
    plan = SegmentPlan(200, REAL)
    assert cut_in_pauses(plan, silent, pauses=True).seams == (37, 62, 109, 149, 196)
    assert cut_in_pauses(plan, [False] * 200, pauses=True) == plan
    chapters = cut_in_pauses(plan, silent, pauses=False, chapters=40)
    assert (chapters.seams, chapters.chapters) == ((47, 94, 125, 172), {125})
    assert [each.keep.stop - each.keep.start for each in chapters] == [47, 47, 31, 47, 28]
