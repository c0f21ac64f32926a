"""Hallo3 Talking Video: renders all segments of a speech with ComfyUI's networks into a job on disk."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..hallo3.errors import InputError
from ..hallo3.face.registry import SimilarityFunction, create_analyzer, similarity_to, unknown_similarity
from ..hallo3.identity import Identity
from ..hallo3.jobs.estimate import check_disk, estimate_run, read_throughput, throughput_key
from ..hallo3.jobs.job import MEMORY, METHODS, Job, JobManifest, folder_size
from ..hallo3.jobs.redo import parse_redo, segment_ends
from ..hallo3.jobs.segment_file import SegmentFormat
from ..hallo3.jobs.store import find_finished_job, list_jobs, remove_stale_jobs
from ..hallo3.jobs.video_job import (
    NUMERICS,
    VideoJob,
    create_manifest,
    open_parent,
    open_video_job,
    parent_state,
)
from ..hallo3.media.mux import AI_COMMENT
from ..hallo3.media.paste_back import PasteBack
from ..hallo3.media.plots import draw_drift
from ..hallo3.media.video import VideoEncoding
from ..hallo3.noise import Noise
from ..hallo3.quantization import describe_machine
from ..hallo3.segments import Segment, SegmentPlan
from ..hallo3.storage.hashing import CACHE_FILENAME, FileHashCache, hash_facts, hash_file, hash_tensor
from ..hallo3.vae.autoencoder import decode_slices
from .comfy import vae as host_vae
from .comfy.cues import CUE
from .comfy.memory import SecondTry
from .comfy.model import SegmentInput, approximations
from .comfy.places import find_faces
from .comfy.progress import RunProgress, check_interrupted, check_memory, show_text, show_warning
from .comfy.sampling import Sampling, step_cache_threshold
from .comfy.speech import SpeechSocket
from .comfy.workflow import NAMED_FILES, Graph, hash_named_files, running_node
from .convert import check_fit, to_images
from .identity import get_paste_back
from .schema import FREE_MEMORY, Hallo3Node, job_inputs, make_schema, render_inputs
from .signing import SignedVideo, Signer, open_signer

NOT_IN_KEY = ("redo", "take", "continue_from", "mark", "sign")
"""Inputs that do not change the frames."""
VIDEO_OUTPUT, IMAGES_OUTPUT = 0, 1
BUT_FOR_SEED, SEED = "all but the seed", "seed"
"""Entries of a job's manifest: a hash of everything else that decides it, and the seed."""


def jobs_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "hallo3_jobs"


@dataclass(frozen=True, kw_only=True, eq=False)
class ExtrapolateRequest:
    """The inputs of a video. If its node is not ``running`` in a workflow, its job has a unique key and is
    never resumed."""

    sampling: Sampling
    vae: Any
    identity: Identity
    speech: SpeechSocket
    seed: int
    motion_drop: float
    encoding: VideoEncoding
    mark: bool
    paste_back: PasteBack | None
    running: tuple[Graph, str] | None
    parent: Job | None

    @property
    def plan(self) -> SegmentPlan:
        return self.speech.speech.plan

    @property
    def size(self) -> tuple[int, int]:
        """The video's (width, height)."""
        frame = self.paste_back or self.identity.canvas
        return frame.width, frame.height

    @property
    def suffix(self) -> str:
        return self.encoding.kind.files[0]

    @cached_property
    def sigmas(self) -> Tensor:
        return self.sampling.schedule()

    @property
    def throughput_key(self) -> str:
        evaluations = (len(self.sigmas) - 1) * self.sampling.branches
        device, cache = self.sampling.patcher.load_device.type, step_cache_threshold(self.sampling.sampler)
        return throughput_key(self.sampling.config.name, device, evaluations, self.size, self.encoding, cache)

    @property
    def form(self) -> SegmentFormat:
        return SegmentFormat(config=self.plan.config, encoding=self.encoding, size=self.size)

    def manifest(self) -> JobManifest:
        headers = self.form.headers
        key, but_for_seed = self._keys(headers)
        info = {"model": self.sampling.config.name, "video": f"{key[:16]}{self.suffix}"}
        info |= {BUT_FOR_SEED: but_for_seed, SEED: str(self.seed)}
        return create_manifest(key, self.plan, headers, info, self.parent)

    def _keys(self, headers: str) -> tuple[str, str]:
        """A hash of the workflow up to the node, the files it names, the input values and the continued job;
        and the same without the seed. The workflow stands for the model, which has no lasting name of its
        own."""
        identity, recording = self.identity, self.speech.recording
        if self.running is None:
            return (once := hash_facts({"once": uuid.uuid4().hex})), once
        graph, node = self.running
        seedless = graph.compute_hash(node, (*NOT_IN_KEY, "seed"))
        workflow = graph.compute_hash(node, NOT_IN_KEY)  # fills graph.texts
        saved = identity.saved_info
        facts: dict[str, Any] = {
            "numerics": NUMERICS,
            "workflow": workflow,
            "files": hash_named_files(graph.texts, FileHashCache(jobs_folder() / CACHE_FILENAME), show_text),
            "values": [self.seed, self.motion_drop, self.sampling.guidance_scale],
            "sigmas": hash_tensor(self.sigmas.float()),
            "text": [hash_tensor(text.float()) for text, _ in self.sampling.positive or []],
            "numbers": str(self.sampling.patcher.model.get_dtype()),
            "device": self.sampling.patcher.load_device.type,
            "canvas": hash_tensor(identity.canvas.pixels),
            "face": hash_tensor(identity.face_embedding.float()),
            "identity": saved.content if saved is not None else identity.reference_hash,
            "heard": self.speech.signal_hash,
            "pasted": hash_tensor(self.paste_back.photograph) if self.paste_back is not None else "",
            "sound": [hash_tensor(recording.waveform), recording.sample_rate],
            "headers": headers,
            "after": parent_state(self.parent),
        }
        if identity.people:
            facts["people"] = [list(face) for face in identity.people]
        if names := approximations():
            facts["approximate"] = names
        if self.plan.seams:
            facts["seams"] = [self.plan.seams, sorted(self.plan.chapters), self.plan.fade]
        cues = [extras.get(CUE) for _, extras in self.sampling.positive or []]
        if any(cues):
            facts["cues"] = [None if cue is None else [cue.start, cue.end] for cue in cues]
        others = facts | {"workflow": seedless, "values": facts["values"][1:]}
        return hash_facts(facts), hash_facts(others)

    def signer(self, name: str, formats: list[str]) -> Signer:
        """For the job's video and what Save Video writes in these ``formats``. Raises as ``open_signer``."""
        suffixes = {self.suffix, *(f".{each}" for each in formats if each != "auto")}
        pixels, samples = self.identity.canvas.pixels, self.speech.recording.waveform
        return open_signer(name, suffixes, {"portrait": hash_tensor(pixels), "speech": hash_tensor(samples)})

    def similarity(self) -> SimilarityFunction:
        """Likeness by the model's face analyzer, if its files are available."""
        with suppress(InputError):
            if self.identity.people:
                return unknown_similarity
            analyzer = create_analyzer(self.sampling.config.face, find_faces())
            return similarity_to(self.identity.face_embedding, analyzer)
        return unknown_similarity


@dataclass(frozen=True, kw_only=True, eq=False)
class ComfyRenderer:
    """The networks of a segment, run and managed by ComfyUI."""

    request: ExtrapolateRequest
    video: VideoJob
    progress: RunProgress
    second_try: SecondTry

    def encode(self, pixels: Tensor, segment: Segment, noise: Noise) -> Tensor:
        del segment, noise
        return host_vae.encode(self.request.vae, pixels)

    def sample(self, image_latents: Tensor, segment: Segment, noise: Noise) -> Tensor:
        request, seed = self.request, self.video.seed_for(segment)
        conditions = SegmentInput(
            identity=request.identity,
            windows=request.speech.windows(segment.index, len(request.identity.people)),
            image_latents=image_latents,
            frame=request.plan.first(segment.index),
        )
        report = self.progress.sampler(self.video.inherited + segment.index)
        share = self.second_try.share
        return request.sampling.sample(conditions, request.sigmas, noise, seed, segment.index, report, share)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        return host_vae.decode(self.request.vae, latents, self.progress.slice_done, self.second_try.share)

    def shrink(self, error: Exception, stage: str) -> bool:
        return self.second_try.shrink(error, stage)


class Hallo3Extrapolate(Hallo3Node):
    MEMORY_ADVICE = (
        f"choose a smaller weight_dtype in Load Hallo3 Model, disconnect images, or {FREE_MEMORY}; then "
        "queue again to resume"
    )

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3Extrapolate",
            search_aliases=[
                "hallo3",
                *("talking portrait", "talking head", "talking video", "audio driven", "speech to video"),
                *("lip sync", "long video", "animate", "avatar"),
                *("说话", "数字人", "口型", "唇形同步", "音频驱动"),
            ],
            inputs=[*render_inputs(single_segment=False), *job_inputs()],
            outputs=[
                io.Video.Output("video"),
                io.Image.Output("images"),
                io.String.Output("job"),
                io.Image.Output("drift"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Run again if ``images`` gets connected, or if the video was deleted or replaced."""
        return [_is_connected(running_node(), IMAGES_OUTPUT), NAMED_FILES.losses()]

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
        sign: str = "",
    ) -> io.NodeOutput:
        del start_again  # part of the workflow that decides the job's key
        sampling = Sampling(model, steps, guidance_scale, positive, guider, sampler, sigmas)
        check_fit(identity, speech, vae, sampling.patcher)
        running, jobs = running_node(), jobs_folder()
        with ExitStack() as stack:
            found = _find_parent(jobs, continue_from)
            request = ExtrapolateRequest(
                sampling=sampling,
                vae=vae,
                identity=identity,
                speech=speech,
                seed=seed,
                motion_drop=motion_drop,
                encoding=VideoEncoding(codec=codec, quality=None if quality < 0 else quality),
                mark=mark,
                paste_back=get_paste_back(identity) if paste_back else None,
                running=running,
                parent=None,
            )
            request.encoding.check(request.suffix, *request.size)
            formats = _save_video_formats(running)
            _check_saving(codec, formats)
            signer = request.signer(sign.strip(), formats) if sign.strip() else None
            if found is not None:
                parent = stack.enter_context(open_parent(jobs, found, request.form, check_interrupted))
                request = replace(request, parent=parent)
            keep_images = _is_connected(running, IMAGES_OUTPUT)
            video = _open_video(request, stack, jobs, redo, take, keep_images)
            _render(request, video)
            path = video.job.folder / f"video{request.suffix}"
            video.join(path)
            if signer is not None:
                signer.sign(path)
                video.job.finish(hash_file(path))
            with suppress(OSError):  # a player may have it open
                (video.job.folder / f"so_far{request.suffix}").unlink(missing_ok=True)
            NAMED_FILES.add(path)
            chart = draw_drift(video.drifts(), video.seconds_per_segment)
            images = _read_images(video, request.size) if keep_images else None
            file = SignedVideo(path, signer) if signer is not None else InputImpl.VideoFromFile(str(path))
            return io.NodeOutput(file, images, video.job.folder.name, to_images(chart[None]))


def _is_connected(running: tuple[Graph, str] | None, output: int) -> bool:
    """True where it is unknown."""
    return running is None or bool(running[0].consumers(running[1], output))


def _save_video_formats(running: tuple[Graph, str] | None) -> list[str]:
    """The formats of the Save Video nodes that ``video`` is connected to."""
    consumers = running[0].consumers(running[1], VIDEO_OUTPUT) if running is not None else []
    return [node["inputs"].get("format") for node in consumers if node["class_type"] == "SaveVideo"]


def _check_saving(codec: str, formats: list[str]) -> None:
    """Raise ``InputError``, before hours of rendering, if ComfyUI's Save Video cannot save ``codec``."""
    if codec == "prores" and formats:
        raise InputError(
            "Save Video cannot save ProRes.",
            found="codec prores, and video connected to Save Video",
            expected="h264, h265 or ffv1 for Save Video",
            fix="choose another codec; or connect only `job` (to Preview as Text): the finished file is "
            "output/hallo3_jobs/JOB/video.mov",
        )
    if codec == "ffv1" and set(formats) - {"mkv"}:
        show_warning("Choose the format mkv in Save Video: few players open FFV1 in an .mp4 file.")


def _find_parent(jobs: Path, name: str) -> JobManifest | None:
    """The finished job of that name; None for an empty name. Raises ``InputError``."""
    if (parent := find_finished_job(jobs, name.strip())) is not None or not name.strip():
        return parent
    raise InputError(
        "There is no video to continue.",
        found=repr(name[:60]),
        expected="the `job` output of a finished Hallo3 Talking Video",
        fix="connect the `job` output of the node that rendered the video",
    )


def _open_video(
    request: ExtrapolateRequest, stack: ExitStack, jobs: Path, redo: str, take: int, keep_images: bool
) -> VideoJob:
    """Open the request's job, locked until ``stack`` closes. Raises ``InputError`` if it cannot fit."""
    manifest, (width, height) = request.manifest(), request.size
    inherited = manifest.segments - len(request.plan)
    takes = parse_redo(redo, take, segment_ends(request.plan, request.parent), inherited)
    if keep_images:
        size = manifest.frames * height * width * 3 * 4
        check_memory(size, f"{manifest.frames} frames of {width} x {height} px")
    remove_stale_jobs(jobs, manifest.key)
    _show_other_seeds(jobs, manifest)
    patcher = request.sampling.patcher
    machine = describe_machine(patcher.load_device, patcher.model.get_dtype())
    if patcher.load_device.type == "cpu":  # speech and identity come from nodes that the job does not run
        machine += f", {torch.get_num_threads()} threads"
    opened = open_video_job(
        jobs, manifest, request.form, request.parent, machine, show_warning, check_interrupted
    )
    job = stack.enter_context(opened)
    estimate = estimate_run(
        request.plan,
        request.sampling.config.segment.shape,
        request.size,
        request.encoding.codec,
        ram=0,
        features=0,
        keep_pixels=keep_images,
        throughput=read_throughput(jobs, request.throughput_key),
    )
    check_disk(estimate, jobs, folder_size(job.folder))
    return VideoJob(
        jobs=jobs,
        job=job,
        plan=request.plan,
        canvas=request.identity.canvas,
        encoding=request.encoding,
        recording=request.speech.recording,
        seed=request.seed,
        machine=machine,
        parent=request.parent,
        redo=takes,
        paste_back=request.paste_back,
        comment=AI_COMMENT if request.mark else "",
        keep_pixels=keep_images,
    )


def _show_other_seeds(jobs: Path, manifest: JobManifest) -> None:
    """For a new job: name an unfinished one that differs in its seed alone."""
    found = list_jobs(jobs)
    if any(job.manifest.key == manifest.key for job in found):
        return
    for job in found:
        other = job.manifest
        if not other.finished and job.done and other.what.get(BUT_FOR_SEED) == manifest.what[BUT_FOR_SEED]:
            done = f"{job.done} of {other.segments} segments"
            show_warning(
                f"Seed {other.what.get(SEED)} has {done} of this video: cancel and set it to resume there."
            )


def _render(request: ExtrapolateRequest, video: VideoJob) -> None:
    """Render the missing segments, with one progress bar over all of them."""
    total, missing = video.job.manifest.segments, video.missing
    if not missing:
        show_text(f"All {total} segments were already rendered; reusing them.")
        return
    if len(missing) < total:
        show_text(f"{total - len(missing)} of {total} segments were already rendered; reusing them.")
    request.sampling.log_attention()
    slices = len(decode_slices(request.sampling.config.segment.shape.latent.frames))
    progress = RunProgress(request.sampling.patcher, missing, total, len(request.sigmas) - 1, slices)
    second_try = SecondTry(request.sampling.patcher.load_device)
    video.similarity, video.clock = request.similarity(), progress.clock
    video.ways = lambda: {MEMORY: second_try.describe(), METHODS: request.sampling.describe_attention()}
    results = video.render(
        ComfyRenderer(request=request, video=video, progress=progress, second_try=second_try),
        motion_drop=request.motion_drop,
        so_far=video.job.folder / f"so_far{request.suffix}",
        throughput_key=request.throughput_key,
        stage=progress.stage,
    )
    for result in results:
        if result.pixels is not None:
            progress.segment_done(result.index, video.show(result.pixels[-1:])[0])


def _read_images(video: VideoJob, size: tuple[int, int]) -> Tensor:
    """All frames as IMAGE [F, H, W, 3]."""
    manifest, end = video.job.manifest, 0
    images = torch.empty(manifest.frames, size[1], size[0], 3)
    for index in range(manifest.segments):
        if video.job.pixels(index) is None:
            show_text(f"The images of segment {index + 1} were not saved; decoding the video.")
        frames = video.frames(index)
        images[end : end + len(frames)] = frames.permute(0, 2, 3, 1)
        end += len(frames)
    return images
