"""A whole video behind Hallo3 Extrapolate: the job it is kept in, and ComfyUI's machinery that renders it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ..hallo3.cost import Cost, cost_of
from ..hallo3.errors import InputError
from ..hallo3.face.likeness import Likeness, likeness_to, nobody_can_tell
from ..hallo3.face.spaces import analyzer_for
from ..hallo3.identity import Identity
from ..hallo3.journal.about import About
from ..hallo3.journal.contents import Contents
from ..hallo3.journal.job import Job
from ..hallo3.journal.jobs import list_jobs
from ..hallo3.journal.key import digest, key_of
from ..hallo3.journal.pace import pace_of
from ..hallo3.kept import NUMERICS, Kept, Redo, seed_of
from ..hallo3.media.encoding import Encoding, headers_of
from ..hallo3.media.joined import frames_of
from ..hallo3.noise import seeded_noise
from ..hallo3.pipeline import Rendered, render_segment
from ..hallo3.segments import Segment, SegmentPlan
from ..hallo3.vae.codec import decode_slices
from ..hallo3.video_job import VideoJob, job_about, state_of
from .host import vae as host_vae
from .host.approximate import approximations
from .host.faces import faces_folder
from .host.graph import Graph, files_of
from .host.original import step_cache_of
from .host.progress import RunProgress
from .host.said import show
from .host.sampling import Sampling
from .host.speech import SpeechSocket
from .kind import kind_of
from .paste_back import photograph_of
from .segment import heard

FOLDER = "hallo3_jobs"
"""Among ComfyUI's outputs."""
DECIDE_NOTHING = ("redo", "take", "continue_from", "mark")
"""Inputs of the node that are no part of what a job is known by: they say what to do with it."""


def jobs_folder() -> Path:
    """Where jobs are kept."""
    return Path(folder_paths.get_output_directory()) / FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """All that a video is made of. Without a ``graph``, outside a running workflow, a job is its own and
    never found again."""

    sampling: Sampling
    vae: Any
    identity: Identity
    socket: SpeechSocket
    seed: int
    motion_drop: float
    encoding: Encoding
    mark: bool
    paste_back: bool
    graph: Graph | None
    node: str
    parent: Job | None

    @property
    def plan(self) -> SegmentPlan:
        """The speech's segments."""
        return self.socket.speech.plan

    @property
    def size(self) -> tuple[int, int]:
        """The video's (width, height)."""
        if self.paste_back:
            around = photograph_of(self.identity)
            return around.width, around.height
        return self.identity.canvas.width, self.identity.canvas.height

    @property
    def kind(self) -> str:
        """Runs of one kind take as long a segment."""
        branches = 1 if self.sampling.guidance_scale == 1 else 2
        steps, device = len(self.sampling.schedule()) - 1, self.sampling.patcher.load_device.type
        cache = step_cache_of(self.sampling.sampler)
        return kind_of(self.sampling.config.name, device, steps * branches, self.size, self.encoding, cache)

    def about(self) -> About:
        """The job that this is."""
        headers = headers_of(self.encoding, *self.size, self.plan.config.fps)
        key = self._key(headers)
        what = {"model": self.sampling.config.name, "video": f"{key[:16]}{self.suffix}"}
        return job_about(key, self.plan, headers, what, self.parent)

    @property
    def suffix(self) -> str:
        """What the video's name ends in."""
        return self.encoding.kind.files[0]

    def cost(self, jobs: Path, pixels: bool) -> Cost:
        """What it takes."""
        return cost_of(
            self.plan,
            self.sampling.config.segment.shape,
            self.size,
            self.encoding.codec,
            weights=0,
            features=0,
            pixels=pixels,
            pace=pace_of(jobs, self.kind),
        )

    def video_job(self, jobs: Path, job: Job) -> VideoJob:
        """Its job as a video with sound."""
        return VideoJob(
            jobs=jobs,
            job=job,
            plan=self.plan,
            canvas=self.identity.canvas,
            encoding=self.encoding,
            recording=self.socket.recording,
            parent=self.parent,
            mark=self.mark,
            surroundings=photograph_of(self.identity) if self.paste_back else None,
        )

    def make(self, video: VideoJob, redo: Redo, pixels: bool) -> Iterator[Kept]:
        """Every segment, rendered where it is missing; says where it goes on."""
        total, todo = video.job.about.segments, video.to_do(redo)
        sigmas = self.sampling.schedule()
        slices = len(decode_slices(self.sampling.config.segment.shape.latent.frames))
        progress = RunProgress(self.sampling.patcher, todo, total, len(sigmas) - 1, slices)
        if len(todo) < total:
            show(f"{total - len(todo)} of {total} segments are finished already")
        if todo:
            self.sampling.tell_attention()
        before, after = total - len(self.plan), state_of(self.parent)

        def draw(segment: Segment, motion: Tensor, take: int) -> Rendered:
            seed, place = seed_of(self.seed, take, after), before + segment.index
            noise = seeded_noise(seed)

            def encode(shown: Tensor, segment: Segment) -> Tensor:
                del segment
                return host_vae.encode(self.vae, shown)

            def sample(image_latents: Tensor, segment: Segment) -> Tensor:
                read = heard(self.identity, self.socket, segment, image_latents)
                report = progress.sampler(place)
                return self.sampling.sample(read, sigmas, noise, seed, segment.index, report)

            def decode(latents: Tensor) -> Iterator[Tensor]:
                return host_vae.decode(self.vae, latents, progress.slice_done)

            return render_segment(
                self.identity.canvas.pixels,
                motion,
                segment,
                encode=encode,
                sample=sample,
                decode=decode,
                noise=noise,
                motion_drop=self.motion_drop,
            )

        growing = video.job.folder / f"so_far{self.suffix}"
        alike = self._likeness()
        for kept in video.make(draw, growing, kind=self.kind, redo=redo, likeness=alike, pixels=pixels):
            if kept.drawn:
                progress.segment_done(kept.index)
            yield kept

    def _likeness(self) -> Likeness:
        """By the model's own analyzer, where there is one without more files."""
        try:
            analyzer = analyzer_for(self.sampling.config.face, faces_folder())
        except InputError:
            return nobody_can_tell
        return likeness_to(self.identity.face_embedding, analyzer)

    def _key(self, headers: str) -> str:
        """A canonical hash of the workflow before the node and of the files it names, of the sound and the
        picture that came, and of what they go on from. Models as such have no name that lasts."""
        graph = self.graph
        if graph is None:
            return key_of({"once": uuid.uuid4().hex})
        workflow = graph.hash_of(self.node, DECIDE_NOTHING)
        return key_of(
            {
                "numerics": NUMERICS,
                "workflow": workflow,
                "files": files_of(graph.texts, Contents(jobs_folder()), show),
                "values": [self.seed, self.motion_drop, self.sampling.guidance_scale],
                "sigmas": digest(self.sampling.schedule().float()),
                "text": [digest(text.float()) for text, _ in self.sampling.positive or []],
                "numbers": str(self.sampling.patcher.model.get_dtype()),
                "device": self.sampling.patcher.load_device.type,
                **({"approximate": given_up} if (given_up := approximations()) else {}),
                "canvas": digest(self.identity.canvas.pixels),
                "face": digest(self.identity.face_embedding.float()),
                "identity": self.identity.saved.content if self.identity.saved else self.identity.seen,
                "heard": self.socket.heard,
                "pasted": digest(photograph_of(self.identity).photograph) if self.paste_back else "",
                "sound": [digest(self.socket.recording.waveform), self.socket.recording.sample_rate],
                "headers": headers,
                "after": state_of(self.parent),
            }
        )


def parent_named(jobs: Path, name: str) -> About | None:
    """The finished job of a name, None for no name. Raises ``InputError``."""
    if not name.strip():
        return None
    for job in list_jobs(jobs):
        if job.name == name.strip() and job.about.finished:
            return job.about
    raise InputError(
        "There is no video to go on from.",
        found=repr(name[:60]),
        expected="the output job of a Hallo3 Extrapolate that has finished, still kept in output/hallo3_jobs",
        do="connect the output job of the node that made the video",
    )


def frames_kept(video: VideoJob, kept: Kept) -> Tensor:
    """A segment's frames [F, 3, h, w] in 0..1: as rendered, as kept, or else as they come out of the encoded
    piece."""
    pixels = kept.pixels if kept.pixels is not None else video.job.pixels(kept.index)
    if pixels is not None:
        return video.finished(video.canvas.uncrop(pixels))
    show(f"the images of segment {kept.index + 1} are decoded from the video: they were not kept")
    return frames_of(video.job.piece(kept.index))


def encoding_of(codec: str, quality: int) -> Encoding:
    """What the widgets ask for; -1 is the codec's own quality. Raises ``InputError``."""
    return Encoding(codec=codec, quality=None if quality < 0 else quality)
