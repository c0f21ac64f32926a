"""The loop of :mod:`hallo3.pipeline` with a journal behind it: what is finished is not rendered again.

The journal knows nothing of models and this file nothing of where a model runs: ``draw`` renders a segment
from motion frames, ``press`` encodes its frames. Both homes of the loop call it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from .errors import Hallo3Error, InputError
from .journal.job import Job
from .journal.record import MOTION, PIECE, PIXELS, Record
from .pipeline import Rendered
from .segments import Segment, SegmentPlan

NUMERICS = 1
"""Of what this package computes. A job of another number is not gone on with: its frames would differ."""

Draw = Callable[[Segment, Tensor, int], Rendered]
"""(segment, motion frames [1, 3, m, H, W], take) -> the segment's frames."""
Press = Callable[[Tensor], bytes]
"""Frames [F, 3, H, W] in 0..1 on the whole canvas -> an encoded piece."""
Measure = Callable[[Tensor, Tensor | None], Mapping[str, float]]
"""(frames as for ``Press``, the last frame before them [3, H, W] or None) -> numbers worth keeping."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A segment that is safe: its place in the whole video, what was noted of it, whether it was ``drawn``
    just now, and its ``pixels`` if they were."""

    index: int
    record: Record
    drawn: bool
    pixels: Tensor | None


@dataclass(frozen=True, slots=True)
class Redo:
    """Segments ``first`` to ``last``, counted from 1 as people do, are to be the take of that number."""

    first: int
    last: int
    take: int

    def wants(self, index: int, record: Record) -> bool:
        """Whether a finished segment (counted from 0) is to be rendered again."""
        return self.first <= index + 1 <= self.last and record.take != self.take

    def take_of(self, index: int, before: int) -> int:
        """Which take a segment that was take ``before`` is when it is rendered."""
        return self.take if self.first <= index + 1 <= self.last else before


NO_REDO = Redo(1, 0, 0)


def redo_named(text: str, take: int, segments: int, inherited: int = 0) -> Redo:
    """``14-17``, ``14`` or ``14-`` (to the end), counted from 1; nothing for an empty text.

    Raises ``InputError`` for anything else, and for segments that the video does not have, or has
    ``inherited`` from the one that it goes on from.
    """
    if not text.strip():
        return NO_REDO
    found = re.fullmatch(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?)?\s*", text)
    first = int(found[1]) if found else 0
    last = (int(found[3]) if found[3] else segments if found[2] else first) if found else 0
    if not inherited < first <= last <= segments or take < 1:
        there = f"{inherited + 1} to {segments}"
        raise InputError(
            "These segments cannot be done again.",
            found=f"{text!r}, take {take}",
            expected=f"one segment, or a stretch such as 2-3, of {there}; a take from 1 on",
            do="choose segments that the video has",
        )
    return Redo(first, last, take)


def seed_of(seed: int, take: int, after: str) -> int:
    """The seed of a take, and of what goes on ``after`` another video: the run's own for the first take."""
    if not take and not after:
        return seed
    return int.from_bytes(blake2b(f"{seed}|{take}|{after}".encode(), digest_size=8).digest(), "little")


def keep(
    job: Job,
    plan: SegmentPlan,
    first: Tensor,
    *,
    draw: Draw,
    press: Press,
    measure: Measure,
    redo: Redo = NO_REDO,
    pixels: bool = False,
) -> Iterator[Kept]:
    """Every segment of the job in order, those that are missing rendered and kept on the way.

    ``first`` are the motion frames of the job's first segment. The plan's segments are the job's last ones;
    those before were taken over from the video it goes on from. ``pixels`` keeps the frames too.

    Raises ``Hallo3Error`` for frames that are not numbers, before they are kept; ``OutputError``.
    """
    before = job.about.segments - len(plan)
    motion: Tensor | None = first
    for index in range(job.about.segments):
        record = job.finished(index)
        if record is not None and (index < before or not redo.wants(index, record)):
            motion = None  # it is in the file; read only if the next segment needs it
            yield Kept(index, record, False, None)
            continue
        if index < before:
            raise _lost(index)
        if motion is None:
            motion = job.motion(index - 1)
        begun, segment, take = time.monotonic(), plan[index - before], redo.take_of(index, job.take(index))
        last = (motion[0, :, -1] + 1) / 2 if index else None
        drawn = draw(segment, motion, take)
        _check_finite(drawn, index)
        tensors = {
            PIECE: _bytes(press(drawn.pixels)),
            MOTION: drawn.motion.float(),
            PIXELS: drawn.pixels,
        }
        measures = measure(drawn.pixels, last)
        record = job.commit(
            index,
            tensors,
            take=take,
            seconds=time.monotonic() - begun,
            measures=measures,
            pixels=pixels,
        )
        motion = drawn.motion.float()
        yield Kept(index, record, True, drawn.pixels)


def _check_finite(drawn: Rendered, index: int) -> None:
    if not (bool(drawn.pixels.isfinite().all()) and bool(drawn.motion.isfinite().all())):
        raise Hallo3Error(
            "Sampling gave values that are not numbers.",
            found=f"NaN or infinity in segment {index + 1}; it is not kept, those before it are",
            expected="finite frames",
            do="use another number type (bf16 or fp32 in place of fp16), other weights, or no LoRA",
        )


def _lost(index: int) -> InputError:
    return InputError(
        "The video to go on from is not whole any more.",
        found=f"its segment {index + 1} is missing or damaged",
        expected="a finished video's job",
        do="render that one again first",
    )


def _bytes(piece: bytes) -> Tensor:
    return torch.frombuffer(bytearray(piece), dtype=torch.uint8)
