"""One run of a job, with a bar, and word of what is kept when it stops."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing, suppress
from pathlib import Path

from tqdm import tqdm

from ..journal.job import Job
from ..kept import Redo
from ..media.drift_chart import draw_drift
from ..media.picture import write_picture
from ..sampling.step_cache import CacheReport
from ..stages import Progress
from ..video_job import VideoJob, state_of
from .perform import SPEECH, Performer
from .request import Request


class Run:
    """``parent`` is the video that this one goes on from."""

    def __init__(self, request: Request, job: Job, redo: Redo, parent: Job | None) -> None:
        options = request.options
        self._request, self._redo, self._after = request, redo, state_of(parent)
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

        def watch(progress: Progress) -> None:
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
