"""``hallo3 animate``: refuse what cannot work, go on where an earlier run stopped, render, join."""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import Namespace
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from ..errors import InputError
from ..jobs.estimate import RunEstimate, as_dict, check_disk, estimate_run, read_throughput, summarize_run
from ..jobs.job import SEGMENTS_DIR, Job, folder_size, inherit, open_job
from ..jobs.render import NO_REDO, Redo, VideoJob, create_manifest, machine_warning, parent_state, parse_redo
from ..jobs.store import remove_stale_jobs, set_job_aside
from ..media.image import write_picture
from ..media.plots import draw_drift
from ..pipeline import RenderProgress
from ..sampling.step_cache import CacheReport
from .cache_key import key_of_video
from .jobs import find_parent, print_jobs
from .renderer import SPEECH, Performer
from .request import Request, check_apart, check_output, check_pictures, jobs_folder, read_request
from .speech import Ear
from .vram import check_vram, planned


class Run:
    """``parent`` is the video that this one goes on from."""

    def __init__(self, request: Request, job: Job, redo: Redo, parent: Job | None) -> None:
        options = request.options
        self._request, self._redo, self._after = request, redo, parent_state(parent)
        self._video = VideoJob(
            jobs=request.jobs,
            job=job,
            plan=request.plan,
            canvas=request.canvas,
            encoding=request.encoding,
            recording=options.speech,
            parent=parent,
            enlarge=request.enlarge,
            surroundings=request.surroundings,
            mark=not options.no_mark,
            unchanged=request.check_speech,
        )
        self._cached = CacheReport()
        self._output: Path = options.output.resolve()
        self._so_far = job.folder / f"so_far{self._output.suffix}"

    def render(self) -> int:
        """Make the whole video; how many segments were rendered for it. What is finished is kept whatever
        happens."""
        job, steps = self._video.job, self._request.settings.steps
        total, todo, drawn = job.about.segments, len(self._video.to_do(self._redo)), 0
        bar = tqdm(total=todo * steps, unit="step", desc=f"segment 1/{total}", disable=not todo)

        def watch(progress: RenderProgress) -> None:
            index = total - progress.segments + progress.segment
            bar.set_description(f"segment {index + 1}/{total}", refresh=False)
            bar.update(min(drawn * steps + progress.step, bar.total) - bar.n)
            if progress.cache and progress.step == steps:
                self._cached += progress.cache

        performer = Performer(self._request, job.folder, self._after, watch)
        made = self._video.make(
            performer.draw,
            self._so_far,
            kind=self._request.kind,
            redo=self._redo,
            likeness=performer.likeness,
        )
        try:
            with bar, closing(made):
                self._write_beside(performer)
                for kept in made:
                    drawn += kept.drawn
            self._video.join(self._output)
        except BaseException:
            self._tell_what_is_kept()
            raise
        if performer.ran:
            tqdm.write(f"note: {performer.ran}", sys.stderr)
        if self._cached.steps:
            tqdm.write(f"note: {self._cached.text()}", sys.stderr)
        with suppress(OSError):  # a player may have it open
            self._so_far.unlink()
        if self._request.options.chart is not None:
            config = self._request.config.segment
            chart = draw_drift(self._video.drifts(), config.new_frames / config.fps)
            write_picture(chart, self._request.options.chart)
        shutil.rmtree(job.folder / SPEECH, ignore_errors=True)
        return drawn

    def _write_beside(self, performer: Performer) -> None:
        """What is asked for before anything is rendered."""
        options = self._request.options
        if options.speech_chart is not None:
            write_picture(performer.speech_chart(), options.speech_chart)
        if options.save_identity is not None:
            performer.save_identity(options.save_identity)

    def _tell_what_is_kept(self) -> None:
        total = self._video.job.about.segments
        with suppress(OSError):  # the error that stopped the run is the one to be told
            done = self._video.job.done
            there = f"; the video so far is {self._so_far}" if self._so_far.exists() else ""
            again = "the same command" + " without --fresh" * self._request.options.fresh
            text = f"{done} of {total} segments are kept, {again} goes on from there{there}"
            if done:
                tqdm.write(f"note: {text}", sys.stderr)


def run_animate(options: Namespace) -> None:
    """The whole command. Every input is checked before any weights are loaded."""
    if options.jobs:
        print_jobs(jobs_folder(options))
        return
    if not options.plan:
        check_output(options)
    check_pictures(options)
    request = read_request(options)
    check_vram(request)
    check_apart(options, request.files)
    if options.preview is not None:
        write_picture(request.speaker.overview(), options.preview)
    if options.plan:
        if options.speech_chart is not None:
            with TemporaryDirectory(prefix="hallo3_") as folder:
                write_picture(Ear(request, Path(folder)).chart(), options.speech_chart)
        _print_plan(*_planned_or_not(request))
        return
    with torch.inference_mode():
        _animate(request)


def _animate(request: Request) -> None:
    started, options, jobs = time.monotonic(), request.options, request.jobs
    with ExitStack() as stack:
        parent = None
        if options.continue_from:
            parent = stack.enter_context(open_job(jobs, find_parent(jobs, options.continue_from)))
        about = create_manifest(
            key_of_video(request, parent_state(parent)), request.plan, request.headers(), request.what, parent
        )
        redo = parse_redo(options.redo, options.take, about.segments, about.segments - len(request.plan))
        if options.fresh:  # a refusal puts nothing aside
            request = planned(request)
        for gone in remove_stale_jobs(jobs, about.key):
            _note(f"cleared the job {gone.name}, not used for long ({gone.about.what.get('video', '')})")
        if options.fresh and (aside := set_job_aside(jobs, about.key)) is not None:
            _note(f"what was finished before is kept in {aside}")
        if told := machine_warning(jobs, about):
            _note(told)
        job = stack.enter_context(open_job(jobs, about))
        if parent is not None:
            inherit(job, parent)
        _tell_where(job, redo)
        inherited = folder_size(parent.folder / SEGMENTS_DIR) if parent is not None else 0
        if not options.fresh and (_renders(job, redo) or options.save_identity is not None):
            request = planned(request)
        left = 0 if job.done == about.segments else len(request.plan)
        expected = cost(request, left)
        check_disk(expected, jobs, folder_size(job.folder) - inherited)
        check_disk(replace(expected, job=0), options.output.resolve().parent)
        drawn = Run(request, job, redo, parent).render()
    said = f"{options.output}: {about.frames} frames, {about.frames / request.fps:.2f} s, "
    said += f"{request.width} x {request.height}, in {time.monotonic() - started:.1f} s"
    if drawn < about.segments:
        said += f"; {about.segments - drawn} of {about.segments} segments were finished before"
    print(said)


def cost(request: Request, left: int) -> RunEstimate:
    """What the request will take, with so many segments ``left`` to do."""
    audio = request.config.audio
    return estimate_run(
        request.plan,
        request.config.segment.shape,
        (request.width, request.height),
        request.encoding.codec,
        weights=request.weight_bytes(),
        features=audio.layers * audio.channels * 4 if left else 0,
        left=left,
        pace=read_throughput(request.jobs, request.kind),
    )


def _renders(job: Job, redo: Redo) -> bool:
    """Whether a segment is left to render; a finished job needs no GPU."""
    found = enumerate(map(job.finished, range(job.about.segments)))
    return any(record is None or redo.wants(index, record) for index, record in found)


def _planned_or_not(request: Request) -> tuple[Request, str]:
    """For showing: a GPU without enough free memory is told by a line, unless a ceiling was asked for."""
    try:
        return planned(request), ""
    except InputError as error:
        if request.options.vram is not None:
            raise
        return request, f"{error.headline} To do: {error.fix}."


def _print_plan(request: Request, refused: str) -> None:
    size, attention = (request.width, request.height), request.attention.title
    run = summarize_run(request.config.name, request.plan, request.settings, *size, attention)
    expected = cost(request, len(request.plan))
    memory = request.memory
    if request.options.json:
        facts = as_dict(run) | asdict(expected) | {"disk": expected.disk}
        facts |= {"refused": refused} if refused else {}
        print(json.dumps(facts if memory is None else facts | {"vram": memory.as_dict()}))
    else:
        print("\n".join([run.text(), expected.text(), *([memory.text()] if memory else [])]))
        if refused:
            print(refused)
    check_disk(expected, request.jobs)


def _tell_where(job: Job, redo: Redo) -> None:
    total = job.about.segments
    if redo != NO_REDO:
        again = [n for n, r in enumerate(job.records) if r is not None and redo.wants(n, r)]
        if again:
            _note(f"doing segments {redo.first} to {redo.last} again, take {redo.take}")
        else:
            _note(f"segments {redo.first} to {redo.last} are take {redo.take} already; --take makes others")
    elif job.done == total:
        _note(f"all {total} segments are finished; nothing is rendered")
    elif job.done:
        _note(f"going on after {job.done} of {total} finished segments")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
