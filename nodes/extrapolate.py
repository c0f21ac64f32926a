"""A whole video behind Hallo3 Extrapolate: the job it is kept in, and ComfyUI's machinery that renders it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..hallo3.errors import InputError
from ..hallo3.face.registry import SimilarityFunction, create_analyzer, similarity_to, unknown_similarity
from ..hallo3.identity import Identity
from ..hallo3.jobs.estimate import RunEstimate, check_disk, estimate_run, read_throughput, throughput_key
from ..hallo3.jobs.job import Job, JobManifest, folder_size, inherit, open_job
from ..hallo3.jobs.render import (
    NUMERICS,
    Redo,
    SegmentResult,
    VideoJob,
    create_manifest,
    derive_seed,
    machine_warning,
    parent_state,
    parse_redo,
)
from ..hallo3.jobs.store import list_jobs, remove_stale_jobs
from ..hallo3.media.mux import decode_frames
from ..hallo3.media.plots import draw_drift
from ..hallo3.media.video import VideoEncoding, stream_headers
from ..hallo3.noise import make_noise
from ..hallo3.pipeline import Rendered, render_segment
from ..hallo3.segments import Segment, SegmentPlan
from ..hallo3.storage.hashing import FileHashCache, hash_facts, hash_tensor
from ..hallo3.vae.autoencoder import decode_slices
from . import schema as inputs
from .comfy import vae as host_vae
from .comfy.faces import faces_folder
from .comfy.model import approximations
from .comfy.progress import RunProgress, check_memory, memory_told, show, stoppable, warn
from .comfy.sampling import Sampling, step_cache_of
from .comfy.speech import SpeechSocket
from .comfy.workflow import Graph, files_of, running_graph
from .convert import check_fit, images_of
from .identity import photograph_of
from .sampling import check_numbers, heard

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
    encoding: VideoEncoding
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
        return throughput_key(
            self.sampling.config.name, device, steps * branches, self.size, self.encoding, cache
        )

    def about(self) -> JobManifest:
        """The job that this is."""
        headers = stream_headers(self.encoding, *self.size, self.plan.config.fps)
        key = self._key(headers)
        what = {"model": self.sampling.config.name, "video": f"{key[:16]}{self.suffix}"}
        return create_manifest(key, self.plan, headers, what, self.parent)

    @property
    def suffix(self) -> str:
        """What the video's name ends in."""
        return self.encoding.kind.files[0]

    def cost(self, jobs: Path, pixels: bool) -> RunEstimate:
        """What it takes."""
        return estimate_run(
            self.plan,
            self.sampling.config.segment.shape,
            self.size,
            self.encoding.codec,
            weights=0,
            features=0,
            pixels=pixels,
            pace=read_throughput(jobs, self.kind),
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

    def make(self, video: VideoJob, redo: Redo, pixels: bool) -> Iterator[SegmentResult]:
        """Every segment, rendered where it is missing; says where it goes on."""
        total, todo = video.job.about.segments, video.to_do(redo)
        sigmas = self.sampling.schedule()
        slices = len(decode_slices(self.sampling.config.segment.shape.latent.frames))
        progress = RunProgress(self.sampling.patcher, todo, total, len(sigmas) - 1, slices)
        if len(todo) < total:
            show(f"{total - len(todo)} of {total} segments are finished already")
        if todo:
            self.sampling.tell_attention()
        before, after = total - len(self.plan), parent_state(self.parent)

        def draw(segment: Segment, motion: Tensor, take: int) -> Rendered:
            seed, place = derive_seed(self.seed, take, after), before + segment.index
            noise = make_noise(seed)

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

    def _likeness(self) -> SimilarityFunction:
        """By the model's own analyzer, where there is one without more files."""
        try:
            analyzer = create_analyzer(self.sampling.config.face, faces_folder())
        except InputError:
            return unknown_similarity
        return similarity_to(self.identity.face_embedding, analyzer)

    def _key(self, headers: str) -> str:
        """A canonical hash of the workflow before the node and of the files it names, of the sound and the
        picture that came, and of what they go on from. Models as such have no name that lasts."""
        graph = self.graph
        if graph is None:
            return hash_facts({"once": uuid.uuid4().hex})
        workflow = graph.hash_of(self.node, DECIDE_NOTHING)
        return hash_facts(
            {
                "numerics": NUMERICS,
                "workflow": workflow,
                "files": files_of(graph.texts, FileHashCache(jobs_folder()), show),
                "values": [self.seed, self.motion_drop, self.sampling.guidance_scale],
                "sigmas": hash_tensor(self.sampling.schedule().float()),
                "text": [hash_tensor(text.float()) for text, _ in self.sampling.positive or []],
                "numbers": str(self.sampling.patcher.model.get_dtype()),
                "device": self.sampling.patcher.load_device.type,
                **({"approximate": given_up} if (given_up := approximations()) else {}),
                "canvas": hash_tensor(self.identity.canvas.pixels),
                "face": hash_tensor(self.identity.face_embedding.float()),
                "identity": self.identity.saved.content if self.identity.saved else self.identity.seen,
                "heard": self.socket.heard,
                "pasted": hash_tensor(photograph_of(self.identity).photograph) if self.paste_back else "",
                "sound": [hash_tensor(self.socket.recording.waveform), self.socket.recording.sample_rate],
                "headers": headers,
                "after": parent_state(self.parent),
            }
        )


def parent_named(jobs: Path, name: str) -> JobManifest | None:
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
        fix="connect the output job of the node that made the video",
    )


def frames_kept(video: VideoJob, kept: SegmentResult) -> Tensor:
    """A segment's frames [F, 3, h, w] in 0..1: as rendered, as kept, or else as they come out of the encoded
    piece."""
    pixels = kept.pixels if kept.pixels is not None else video.job.pixels(kept.index)
    if pixels is not None:
        return video.finished(video.canvas.uncrop(pixels))
    show(f"the images of segment {kept.index + 1} are decoded from the video: they were not kept")
    return decode_frames(video.job.piece(kept.index))


def encoding_of(codec: str, quality: int) -> VideoEncoding:
    """What the widgets ask for; -1 is the codec's own quality. Raises ``InputError``."""
    return VideoEncoding(codec=codec, quality=None if quality < 0 else quality)


IMAGES = 1
"""Place of that output."""
ADVICE = "close other programs, or use a smaller weight_dtype; queue again: it goes on where it stopped"
_MADE: dict[str, Path] = {}
"""Videos by the node that made them last."""


class Hallo3Extrapolate(io.ComfyNode):
    """A whole speech to IMAGE and VIDEO."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3Extrapolate",
            display_name="Hallo3 Extrapolate",
            category="Hallo3",
            description=(
                "The whole talking portrait: samples and decodes segment after segment, each going on from "
                "the last frames of the one before, for as long as the speech lasts. What is finished is "
                "kept: queue the same workflow again after a stop, and it goes on."
            ),
            search_aliases=[
                "hallo3",
                "talking portrait",
                "talking head",
                "lip sync",
                "long video",
                "animate",
            ],
            inputs=[
                *inputs.networks(),
                *inputs.who_and_what(),
                inputs.seed(),
                *inputs.steps_and_guidance(),
                inputs.motion_drop(),
                inputs.positive(),
                *inputs.sampling_sockets(),
                *inputs.video_file(),
                *inputs.going_on(),
                inputs.paste_back(),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The finished video with its sound, for Save Video."),
                io.Image.Output(
                    "images",
                    tooltip=(
                        "Its frames, 25 a second, for other nodes. They must all fit into memory; leave it "
                        "unconnected for long videos."
                    ),
                ),
                io.String.Output(
                    "job",
                    tooltip="What the video is kept as, for continue_from of another Hallo3 Extrapolate.",
                ),
                io.Image.Output(
                    "drift",
                    tooltip="Sharpness, colour, seams, likeness if measured, over time; for Preview Image.",
                ),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Run again when images are connected later, and when the video has been taken away."""
        node = str(cls.hidden.unique_id) if cls.hidden else ""
        graph = running_graph(node) if node else None
        gone = node in _MADE and not _MADE[node].is_file()
        return [graph is None or graph.connected(node, IMAGES), gone]

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        identity: Identity,
        speech: SpeechSocket,
        seed: int,
        steps: int,
        guidance_scale: float,
        motion_drop: float,
        positive: Any = None,
        guider: Any = None,
        sampler: Any = None,
        sigmas: Any = None,
        codec: str = "h264",
        quality: int = -1,
        redo: str = "",
        take: int = 1,
        continue_from: str = "",
        start_again: int = 0,
        mark: bool = True,
        paste_back: bool = False,
    ) -> io.NodeOutput:
        del start_again  # it is part of the workflow that a job is known by
        check_numbers(seed, motion_drop, steps, guidance_scale)
        sampling = Sampling(model, steps, guidance_scale, positive, guider, sampler, sigmas)
        check_fit(identity, speech, vae, sampling.patcher)
        dynprompt = cls.hidden.dynprompt if cls.hidden else None
        graph = Graph(dynprompt) if dynprompt is not None else None
        node = str(cls.hidden.unique_id) if graph else ""
        jobs = jobs_folder()
        with memory_told(ADVICE), ExitStack() as stack:
            parent = parent_named(jobs, continue_from)
            made = Extrapolation(
                sampling=sampling,
                vae=vae,
                identity=identity,
                socket=speech,
                seed=seed,
                motion_drop=motion_drop,
                encoding=encoding_of(codec, quality),
                mark=mark,
                paste_back=paste_back,
                graph=graph,
                node=node,
                parent=stack.enter_context(open_job(jobs, parent, stoppable)) if parent else None,
            )
            wanted = graph is None or graph.connected(node, IMAGES)
            return _output(made, stack, jobs, wanted, redo, take)


def _output(
    made: Extrapolation, stack: ExitStack, jobs: Path, wanted: bool, redo: str, take: int
) -> io.NodeOutput:
    made.encoding.check(made.suffix, *made.size)
    about = made.about()
    again = parse_redo(redo, take, about.segments, about.segments - len(made.plan))
    size = about.frames, made.size[1], made.size[0], 3
    if wanted:
        check_memory(math.prod(size) * 4, f"{about.frames} frames of {size[2]} x {size[1]} px")
    remove_stale_jobs(jobs, about.key)
    if told := machine_warning(jobs, about):
        warn(told)
    job = stack.enter_context(open_job(jobs, about, stoppable))
    check_disk(made.cost(jobs, wanted), jobs, folder_size(job.folder))
    if made.parent is not None:
        inherit(job, made.parent)
    video = made.video_job(jobs, job)
    images, filled = torch.empty(size) if wanted else None, 0
    for kept in made.make(video, again, wanted):
        if images is not None:
            frames = frames_kept(video, kept)
            images[filled : filled + len(frames)] = frames.permute(0, 2, 3, 1)
            filled += len(frames)
    path = job.folder / f"video{made.suffix}"
    video.join(path)
    with suppress(OSError):  # a player may have it open
        (job.folder / f"so_far{made.suffix}").unlink()
    if made.node:
        _MADE[made.node] = path
    chart = draw_drift(video.drifts(), made.plan.config.new_frames / made.plan.config.fps)
    return io.NodeOutput(InputImpl.VideoFromFile(str(path)), images, job.folder.name, images_of(chart[None]))
