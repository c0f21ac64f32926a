"""A render without networks: frames that depend on the segment, the take and every pixel before."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallo3.config import NANO
from hallo3.jobs.job import Job, JobManifest, open_job
from hallo3.jobs.redo import NO_REDO, Redo
from hallo3.jobs.segment_file import SegmentFormat, SegmentRecord
from hallo3.jobs.video_job import (
    JobStore,
    SegmentResult,
    VideoJob,
    create_manifest,
    open_video_job,
)
from hallo3.media.audio import Recording
from hallo3.media.canvas import Canvas
from hallo3.media.video import VideoEncoding
from hallo3.noise import Noise, Purpose, make_generator
from hallo3.pipeline import render
from hallo3.progress import no_progress
from hallo3.segments import Segment, SegmentPlan
from hallo3.storage.hashing import hash_text

SEGMENTS = 5
PLAN = SegmentPlan(SEGMENTS * 15 - 4, NANO.segment)
CANVAS = torch.zeros(1, 3, 1, 4, 6)


class ToyFormat(SegmentFormat):
    @property
    def headers(self) -> str:
        return hash_text("toy headers")

    def fits(self, record: SegmentRecord, piece: bytes) -> bool:
        return len(piece) == record.frames * 4 * 6 * 3 * 4


FORM = ToyFormat(config=replace(NANO.segment, height=4, width=6), encoding=VideoEncoding(), size=(6, 4))


@dataclass(slots=True, kw_only=True)
class ToyStore(JobStore):
    def encode(self, pixels: Tensor) -> bytes:
        return pixels.numpy().tobytes()

    def measure(self, pixels: Tensor, before: Tensor | None) -> Mapping[str, float]:
        return {"mean": float(pixels.mean()), "seam": 0.0 if before is None else float(before.mean())}


@dataclass
class Toy:
    """A renderer; ``rendered`` lists the segments in order."""

    root: str = "70"  # the start of its key
    plan: SegmentPlan = PLAN
    inherited: int = 0
    rendered: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        key, segments = self.root.ljust(64, "0"), self.inherited + len(self.plan)
        self.manifest = JobManifest(
            key=key, root=key, segments=segments, frames=self.plan.frames, headers=FORM.headers
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
        with open_job(jobs, self.manifest, FORM) as job:
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


VIDEO_FORM = SegmentFormat(config=FORM.config, encoding=VideoEncoding(), size=(6, 4))


@contextmanager
def open_video(
    jobs: Path, toy: Toy, *, parent: Job | None = None, form: SegmentFormat = VIDEO_FORM, **options: Any
) -> Generator[VideoJob]:
    """An open video with sound, for a toy to render."""
    canvas = Canvas(pixels=CANVAS, rows=slice(0, 4), columns=slice(0, 6))
    manifest = create_manifest(toy.manifest.key, toy.plan, form.headers, {}, parent)
    recording = Recording(torch.zeros(1, toy.plan.frames * 320), 8000)
    with open_video_job(jobs, manifest, form, parent, "toy", no_progress) as job:
        made: dict[str, Any] = {
            "canvas": canvas,
            "encoding": form.encoding,
            "recording": recording,
            **options,
        }
        yield VideoJob(job=job, plan=toy.plan, jobs=jobs, parent=parent, machine="toy", seed=3, **made)


def render_video(video: VideoJob, toy: Toy, **options: Any) -> list[SegmentResult]:
    so_far = video.job.folder / "so_far.mp4"
    return [*video.render(toy, motion_drop=0.0, so_far=so_far, throughput_key="toy", **options)]


def make_video(jobs: Path, path: Path, **options: Any) -> list[int]:
    """Render or resume a video with sound; the segments that were rendered."""
    toy = Toy()
    with open_video(jobs, toy, **options) as video:
        assert [result.index for result in render_video(video, toy)] == list(range(SEGMENTS))
        video.join(path)
    return toy.rendered
