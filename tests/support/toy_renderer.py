"""A render without networks: frames that depend on the segment, the take and every pixel before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hallo3.config import NANO
from hallo3.jobs.job import Job, JobManifest, open_job
from hallo3.jobs.video_job import NO_REDO, JobStore, Redo, SegmentResult
from hallo3.noise import Noise, Purpose, make_generator
from hallo3.pipeline import render
from hallo3.segments import Segment, SegmentPlan

SEGMENTS = 5
PLAN = SegmentPlan(SEGMENTS * 15 - 4, NANO.segment)
CANVAS = torch.zeros(1, 3, 1, 4, 6)


@dataclass(slots=True, kw_only=True)
class ToyStore(JobStore):
    def encode(self, pixels: Tensor) -> bytes:
        return pixels.numpy().tobytes()

    def measure(self, pixels: Tensor, before: Tensor | None) -> Mapping[str, float]:
        return {"mean": float(pixels.mean()), "seam": 0.0 if before is None else float(before.mean())}


@dataclass
class Toy:
    """A renderer; ``rendered`` lists the segments in order."""

    root: str = "toy"
    plan: SegmentPlan = PLAN
    inherited: int = 0
    rendered: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        key, segments = self.root + "k" * 30, self.inherited + len(self.plan)
        self.manifest = JobManifest(
            key=key, root=self.root, segments=segments, frames=self.plan.frames, headers="h"
        )

    def encode(self, pixels: Tensor, segment: Segment, noise: Noise) -> Tensor:
        del segment, noise
        return pixels[:, :, 1:]  # the motion frames

    def sample(self, image_latents: Tensor, segment: Segment, noise: Noise) -> Tensor:
        self.rendered.append(segment.index)
        draw = float(noise(Purpose.START, segment.index, 0, (1,)))
        state = float(image_latents.double().sum())
        generator = make_generator(f"{segment.index} {draw!r} {state!r}")
        return torch.from_numpy(generator.random((1, 3, 17, 4, 6), dtype="float32"))

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        yield latents * 2 - 1

    def run(self, jobs: Path, redo: Redo = NO_REDO, *, keep_pixels: bool = False) -> list[bytes]:
        """All encoded segments of the finished video."""
        with open_job(jobs, self.manifest) as job:
            results = self.render(job, redo, keep_pixels=keep_pixels)
            assert [result.index for result in results] == list(range(self.manifest.segments))
            return [job.piece(index) for index in range(self.manifest.segments)]

    def render(
        self, job: Job, redo: Redo = NO_REDO, *, parent: Job | None = None, keep_pixels: bool = False
    ) -> list[SegmentResult]:
        store = ToyStore(job=job, plan=self.plan, seed=3, parent=parent, redo=redo, keep_pixels=keep_pixels)
        own = render(CANVAS, self.plan, self, store, motion_drop=0.0)
        return [*store.inherited_results(), *own]


def rerun(jobs: Path, redo: Redo = NO_REDO) -> tuple[list[bytes], list[int]]:
    """The segments of a new run, and which it rendered."""
    toy = Toy()
    return toy.run(jobs, redo), toy.rendered
