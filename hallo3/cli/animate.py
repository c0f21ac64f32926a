"""``hallo3 animate``: check the request, resume its job, render what is missing, join the video."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from .. import __version__
from ..built_in import find_samples
from ..errors import InputError, OutputError, check_choice
from ..fleet.remote import SharedJob, open_claim, share_job, url_exists
from ..jobs.estimate import RunEstimate, RunSummary, check_disk, summarize_run
from ..jobs.job import CONTENT, SEGMENTS_DIR, SPEECH_DIRS, folder_size, remove_files, remove_job
from ..jobs.redo import NO_REDO, parse_redo, segment_ends
from ..jobs.segment_file import SegmentFormat
from ..jobs.store import remove_stale_jobs, set_job_aside
from ..jobs.video_job import (
    VideoJob,
    create_manifest,
    open_parent,
    open_video_job,
    parent_state,
)
from ..media.image import write_picture
from ..media.mux import AI_COMMENT
from ..media.plots import draw_drift
from ..messages import logger
from ..offload.budget import MemoryPlan
from ..pipeline import Renderer
from ..progress import FollowShare, no_progress
from ..quantization import describe_machine
from ..storage.files import measure_read_rate
from ..storage.hashing import hash_file
from .jobs import find_parent, print_jobs
from .main import return_freed_memory
from .memory import check_vram, expected_segment_time, plan_run_memory, use_expandable_segments
from .options import AnimateOptions, DemoOptions
from .places import jobs_folder, shared_place
from .progress import StepBar
from .renderer import RunNetworks
from .request import AnimateRequest, read_request
from .session import Session, look_at
from .speech import SpeechFeatures

TRIAL_COMMENT = "A trial on a small canvas: no picture to judge by."


def run_demo(options: DemoOptions) -> None:
    samples = find_samples()
    portrait, speech = samples / "portrait.png", samples / "speech.wav"
    prompt = "A person talks in the rain."
    run_animate(
        AnimateOptions(portrait=portrait, speech=speech, prompt=prompt, enlarge=4, output=options.output)
    )


def run_animate(
    options: AnimateOptions, follow: FollowShare = no_progress, session: Session | None = None
) -> None:
    """The whole command. Every input is checked before any weights are loaded. ``follow`` gets how much of
    the video is rendered; what it raises ends the run. A ``session`` keeps what is loaded for the next
    call."""
    if options.jobs:
        print_jobs(jobs_folder(options))
        return
    use_expandable_segments()
    started, request = time.monotonic(), read_request(options, session)
    check_vram(request)
    sign = _open_signer(options)
    if request.files.is_large:
        return_freed_memory(1 << 20)  # weights count for more than the time that new pages take
        if request.device.type == "cpu" and not options.plan:  # before files are read
            request = plan_run_memory(request)
    if options.preview is not None:
        write_picture(request.subject.preview(), options.preview)
    if options.plan:
        _print_plan(request)
        return
    output = request.output.resolve()  # a link is written through
    with torch.inference_mode(), ExitStack() as stack:
        opened = _open_video(request, stack)
        if opened is None:
            print(f"{options.upload or options.output}: finished before, here or on another machine")
            return
        video, request, shared = opened
        manifest, missing = video.job.manifest, len(video.missing)
        so_far = video.job.folder / f"so_far{output.suffix}"
        with _report_saved(video, so_far, options):
            if missing or options.save_identity is not None or options.speech_chart is not None:
                _render(plan_run_memory(request), video, so_far, shared, follow)
            known = manifest.what.get(CONTENT)
            if made := bool(missing) or not output.is_file() or known != hash_file(output):
                video.join(output)
            if sign is not None and sign(output, made):
                video.job.finish(hash_file(output))
            if shared is not None:
                shared.finish(output, options.upload)
            if options.chart is not None:
                write_picture(draw_drift(video.drifts(), video.seconds_per_segment), options.chart)
        with suppress(OSError):
            remove_files(video.job.folder, *SPEECH_DIRS)
        with suppress(OSError):  # a player may have it open
            so_far.unlink(missing_ok=True)
    if options.upload:
        with suppress(OutputError):  # what others may need of it is shared
            remove_job(video.job.folder)
    (width, height), reused = request.size, manifest.segments - missing
    video_seconds, elapsed = manifest.frames / request.config.segment.fps, time.monotonic() - started
    text = f"{options.output}: {manifest.frames} frames, {video_seconds:.2f} s, {width} x {height}"
    note = f"; {reused} of {manifest.segments} segments were already rendered" if reused else ""
    print(f"{text}, in {elapsed:.1f} s{note}")
    if options.trial and (record := video.job.records[0]) is not None:
        steps = request.settings.steps
        before = "" if missing else "An earlier run, which --fresh repeats, tried it: "
        print(
            f"a trial: everything loads and runs; this is no picture to judge by. {before}{steps} "
            f"step{'s' * (steps > 1)} of {request.config.segment.frames} frames took {record.seconds:.1f} s, "
            f"{record.seconds / steps:.1f} s per step with encoding and decoding. Next: the same without "
            "--trial, or with --plan in its place."
        )


def _open_signer(options: AnimateOptions) -> Callable[[Path, bool], bool] | None:
    """With ``--sign`` a function that signs a video that is new, or is not signed yet, and returns whether it
    did. Raises ``InputError`` for a certificate that cannot be used."""
    if options.sign is None:
        return None
    from ..media import provenance  # by those who sign only

    if options.output is not None:
        check_choice(options.output.suffix.lower(), provenance.TYPES, "ending of a signed video")
    certificate = provenance.read_certificate(options.sign)
    files = {"portrait": options.portrait, "identity": options.identity, "speech": options.speech}
    files |= {f"speech {n}": voice.path for n, voice in enumerate(options.voices[1:], 2)}

    def sign(output: Path, is_new: bool) -> bool:
        if not is_new and provenance.read_provenance(output) is not None:
            return False
        inputs = {name: hash_file(path) for name, path in files.items() if path is not None}
        provenance.sign_video(output, certificate, f"hallo3 {__version__}", inputs)
        return True

    return sign


def _open_video(
    request: AnimateRequest, stack: ExitStack
) -> tuple[VideoJob, AnimateRequest, SharedJob | None] | None:
    """The request's job as a video, locked until ``stack`` is closed, the request with its threads, and the
    job as other machines share it; says where it resumes. None for a shared job whose video is finished."""
    options, jobs, parent = request.options, request.jobs, None
    form = SegmentFormat(config=request.config.segment, encoding=request.encoding, size=request.size)
    if options.continue_from:
        parent = stack.enter_context(open_parent(jobs, find_parent(jobs, options.continue_from), form))
    key = request.job_key(parent_state(parent))
    manifest = create_manifest(key, request.plan, form.headers, request.info, parent)
    inherited = manifest.segments - len(request.plan)
    cues = [] if request.script is None else request.script.seconds
    redo = parse_redo(options.redo, options.take, segment_ends(request.plan, parent), inherited, cues)
    if options.fresh:
        plan_run_memory(request)  # a refusal sets nothing aside
        if (aside := set_job_aside(jobs, key)) is not None:
            logger.warning(f"earlier work was moved to {aside}")
    machine, threads = describe_machine(request.device, request.precision.compute), torch.get_num_threads()
    shared, place = None, shared_place(options)
    if place is not None:
        claim = open_claim(place, key, jobs, f"{machine}, {threads} threads")
        is_wanted = redo != NO_REDO or not _is_written(request)
        gone = claim.look().video if is_wanted else None
        shared = stack.enter_context(share_job(claim, jobs, manifest, form, gone))
        if shared is None:
            return None
    job = stack.enter_context(open_video_job(jobs, manifest, form, parent, machine, logger.warning))
    if shared is not None:
        shared.publish_all(job)
    if torch.get_num_threads() != threads:
        request = replace(request, subject=replace(request.subject))  # with nothing computed yet
    video = VideoJob(
        jobs=jobs,
        job=job,
        plan=request.plan,
        canvas=request.subject.canvas,
        encoding=request.encoding,
        recording=request.sound,
        track=options.track,
        seed=request.settings.seed,
        machine=machine,
        parent=parent,
        redo=redo,
        enlarge=options.enlarge,
        paste_back=request.paste_back,
        comment=" ".join([AI_COMMENT] * (not options.no_mark) + [TRIAL_COMMENT] * options.trial),
        check_recording=request.check_speech,
    )
    if redo != NO_REDO:
        segments = f"segments {redo.first} to {redo.last}"
        if any(job.finished(index) is not None for index in video.missing):
            logger.warning(f"re-rendering {segments} as take {redo.take}")
        else:
            logger.warning(f"{segments} are already take {redo.take}; choose another with --take")
    elif not video.missing:
        logger.warning(f"all {manifest.segments} segments were already rendered; reusing them")
    elif job.done:
        logger.warning(f"resuming after {job.done} of {manifest.segments} finished segments")
    return video, request, shared


def _is_written(request: AnimateRequest) -> bool:
    upload = request.options.upload
    return request.output.is_file() if upload is None else url_exists(upload)


def _render(
    request: AnimateRequest, video: VideoJob, so_far: Path, shared: SharedJob | None, follow: FollowShare
) -> None:
    """Write the files that are asked for beside the video, then render its missing segments."""
    options, missing, manifest = request.options, len(video.missing), video.job.manifest
    for gone in remove_stale_jobs(request.jobs, manifest.key):
        name = gone.manifest.what.get("video", "")
        logger.warning(f"deleted the job {gone.name} ({name}), unused for a long time")
    inherited = folder_size(video.parent.folder, SEGMENTS_DIR) if video.parent is not None else 0
    estimate = request.estimate(len(request.plan) if missing else 0)
    check_disk(estimate, request.jobs, folder_size(video.job.folder) - inherited)
    check_disk(replace(estimate, job=0), request.output.resolve().parent)
    networks = RunNetworks(request, video.job.folder / SPEECH_DIRS[0], parent_state(video.parent))
    if options.speech_chart is not None:
        write_picture(networks.speech.draw_chart(), options.speech_chart)
    if options.save_identity is not None:
        networks.save_identity(options.save_identity)
    if not missing:
        return
    networks.prepare()
    video.similarity, video.clock = networks.similarity, networks.clock
    video.ways = networks.describe_ways
    with StepBar(missing, manifest.segments, request.settings.steps, networks.clock, follow) as bar:
        networks.watch = bar.watch
        results = video.render(
            cast(Renderer, networks),
            motion_drop=request.settings.motion_drop,
            so_far=so_far,
            throughput_key=networks.throughput_key,
            stage=bar.stage,
        )
        with closing(results):
            for result in results:
                if result.pixels is not None:
                    bar.finish_segment()
                    if shared is not None:
                        shared.publish(video.job, result.index)
    logger.warning(networks.describe())
    if bar.cache.steps:
        logger.warning(bar.cache.text())


@contextmanager
def _report_saved(video: VideoJob, so_far: Path, options: AnimateOptions) -> Generator[None]:
    """If the block is stopped or fails, say what is saved and how to resume."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the error that stopped the run is the one to show
            heard = sum(len([*(video.job.folder / each).glob("layer_*.f32")]) for each in SPEECH_DIRS)
            if not (done := video.job.done) and (heard or isinstance(error, OutputError)):
                kept = f"{heard} layers of speech features are kept" if heard else "nothing else is kept"
                logger.warning(f"no segment is finished yet, {kept}; run the same command again")
            if done:
                watch = f"; the video so far is {so_far}" if so_far.exists() else ""
                command = "the same command" + " without --fresh" * options.fresh
                total = video.job.manifest.segments
                logger.warning(f"{done} of {total} segments are saved; {command} resumes from there{watch}")
        raise


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run will be and take. ``rate`` is of the disk with its weights, in bytes per second; ``refused``
    says why it does not fit this computer."""

    summary: RunSummary
    estimate: RunEstimate
    memory: MemoryPlan | None
    rate: float
    refused: str

    def as_dict(self) -> dict[str, Any]:
        facts = self.summary.as_dict() | self.estimate.as_dict() | {"disk": self.estimate.disk}
        facts |= {"refused": self.refused} if self.refused else {}
        return facts | ({"vram": self.memory.as_dict() | {"read_rate": self.rate}} if self.memory else {})

    def text(self) -> str:
        texts = [self.summary.text(), self.estimate.text()]
        texts += [self.memory.reads(self.rate), self.memory.text()] if self.memory else []
        return "\n".join(filter(None, [*texts, self.refused]))


def plan_run(request: AnimateRequest) -> RunPlan:
    """Raises ``InputError`` for a portrait without a usable face, or a ``--vram`` that is too small."""
    options, refused = request.options, ""
    if request.subject.identity is None:
        _ = request.subject.portrait  # its errors belong to a plan
    try:
        request = plan_run_memory(request)
    except InputError as error:
        if options.vram is not None:
            raise
        refused = f"{error.headline} Fix: {error.fix}."
    attention, weights = request.attention.title, request.files.open("transformer").files[0].path
    rate = 0.0
    if request.memory is not None:
        rate = request.session.keep("read rate", look_at(weights), lambda: measure_read_rate(weights))
    estimate = request.estimate(len(request.plan)).expecting(expected_segment_time(request, rate))
    return RunPlan(
        summary=summarize_run(
            request.model_name,
            request.plan,
            request.settings,
            request.size,
            attention,
            request.prompts,
            request.voices.describe(request.config, request.precision) if request.voices else "",
        ),
        estimate=estimate,
        memory=request.memory,
        rate=rate,
        refused=refused,
    )


def _print_plan(request: AnimateRequest) -> None:
    options = request.options
    if options.speech_chart is not None:
        with TemporaryDirectory(prefix="hallo3_") as folder:
            chart = SpeechFeatures(request, Path(folder) / SPEECH_DIRS[0]).draw_chart()
            write_picture(chart, options.speech_chart)
    plan = plan_run(request)
    print(json.dumps(plan.as_dict()) if options.json else plan.text())
    check_disk(plan.estimate, request.jobs)
