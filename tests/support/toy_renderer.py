"""A render without a model: frames that depend on the segment, the take and every pixel before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hallo3.config import NANO
from hallo3.jobs.job import Job, JobManifest, open_job
from hallo3.jobs.render import NO_REDO, Redo, SegmentResult, keep
from hallo3.noise import make_generator
from hallo3.pipeline import Rendered
from hallo3.segments import Segment, SegmentPlan

SEGMENTS = 5
PLAN = SegmentPlan(SEGMENTS * 15 - 4, NANO.segment)
FIRST = torch.zeros(1, 3, 2, 4, 6)


class Toy:
    """``drawn`` lists what was rendered, in order."""

    def __init__(self, root: str = "toy", plan: SegmentPlan = PLAN, before: int = 0) -> None:
        self.plan, self.drawn = plan, list[int]()
        self.about = JobManifest(
            key=root + "k" * 30, root=root, segments=before + len(plan), frames=plan.frames, headers="h"
        )

    def draw(self, segment: Segment, motion: Tensor, take: int) -> Rendered:
        self.drawn.append(segment.index)
        state = float(motion.double().sum())
        noise = make_generator(f"{segment.index} {take} {state!r}").random((15, 3, 4, 6), dtype="float32")
        pixels = torch.from_numpy(noise)[: segment.kept_frames]
        return Rendered(pixels, pixels[-2:].transpose(0, 1)[None] * 2 - 1)

    def run(self, jobs: Path, redo: Redo = NO_REDO, *, pixels: bool = False) -> list[bytes]:
        """All pieces of the finished video."""
        with open_job(jobs, self.about) as job:
            kept = list(self.keep(job, redo, pixels=pixels))
            assert [each.index for each in kept] == list(range(self.about.segments))
            return [job.piece(index) for index in range(self.about.segments)]

    def keep(self, job: Job, redo: Redo = NO_REDO, *, pixels: bool = False) -> list[SegmentResult]:
        made = keep(
            job, self.plan, FIRST, draw=self.draw, press=press, measure=measured, redo=redo, pixels=pixels
        )
        return list(made)


def press(pixels: Tensor) -> bytes:
    return pixels.numpy().tobytes()


def measured(pixels: Tensor, before: Tensor | None) -> Mapping[str, float]:
    return {"mean": float(pixels.mean()), "seam": 0.0 if before is None else float(before.mean())}


def undisturbed(folder: Path, *, redo: Redo = NO_REDO) -> list[bytes]:
    """What a run without any trouble makes."""
    toy = Toy()
    made = toy.run(folder)
    return Toy().run(folder, redo) if redo != NO_REDO else made
