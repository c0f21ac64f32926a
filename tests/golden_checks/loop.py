"""Segment plans of the long-video loop, without the segments that the original discards."""

from __future__ import annotations

from typing import Any

import torch

from hallo3.config import SegmentConfig
from hallo3.segments import SegmentPlan
from hallo3.speech.features import Speech, read_from_memory

from .directory import Check, Golden, Report


def bookkeeping(golden: Golden) -> Report:
    """Slots, windows and output frames; the plan has exactly the chunks with output."""
    report = Report()
    for name, case in golden.about["cases"].items():
        chunks: list[dict[str, Any]] = case["chunk_list"]
        config = SegmentConfig(frames=len(chunks[0]["slots"]))
        plan = SegmentPlan(int(case["audio_length_frames"]), config)
        speech = Speech(read_from_memory(_numbered(plan.padded)), plan, _window(chunks[0]))
        rendered_chunks = [chunk for chunk in chunks if chunk["kept_output_frames_from_this_chunk"]]
        report.exact(f"{name}: padded", plan.padded, case["wav2vec_frames_after_padding_to_multiple_of_49"])
        report.exact(f"{name}: segments", len(plan), len(rendered_chunks))
        report.exact(
            f"{name}: frames", sum(s.keep.stop - s.keep.start for s in plan), case["output_frames_kept"]
        )
        for segment, chunk in zip(plan, rendered_chunks, strict=True):
            where = f"{name}: segment {segment.index}"
            windows = speech.segment(segment.index)[0, :, :, 0, 0].long() - 1
            report.exact(f"{where} slots", list(segment.slots), chunk["slots"])
            report.exact(f"{where} windows", windows.tolist(), chunk["windows_of_slots"])
            expected = chunk["kept_output_frames_from_this_chunk"]
            report.exact(f"{where} kept", segment.keep.stop - segment.keep.start, expected)
    return report


def _numbered(frames: int) -> torch.Tensor:
    """Features that are their own index plus one, so that silence (zero) reads as -1."""
    return torch.arange(1, frames + 1, dtype=torch.float64)[:, None, None]


def _window(chunk: dict[str, Any]) -> int:
    return len(chunk["windows_of_slots"][0])


CHECKS = (Check(lambda g: "cases" in g.about, bookkeeping),)
