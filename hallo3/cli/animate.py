"""``hallo3 animate``: refuse what cannot work, then load, render and write."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..built_in import FOLDER
from ..config import Hallo3Config
from ..errors import InputError
from ..load import load_models
from ..media.canvas import Canvas, enlarged, fit
from ..media.picture import read_picture
from ..media.sound import Recording, read_recording, to_mono
from ..media.video import VideoWriter
from ..models import Models
from ..parts import PARTS
from ..pipeline import animate
from ..segments import SegmentPlan, plan_segments
from ..settings import Settings, settings_for
from ..stages import Progress
from ..stored import model_config
from ..weights.places import ModelFolder
from ..weights.precision import precision_named
from .bill import as_dict, bill
from .memory import remembered

LARGEST = 16
"""How many times frames may be enlarged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run whose inputs have all been read and accepted; ``speech`` is mono at the encoder's rate,
    ``enlarge`` how many times as large as rendered the frames are written."""

    config: Hallo3Config
    settings: Settings
    portrait: Tensor
    canvas: Canvas
    speech: Recording
    plan: SegmentPlan
    enlarge: int

    @property
    def width(self) -> int:
        """The video's, in pixels."""
        return self.canvas.width * self.enlarge

    @property
    def height(self) -> int:
        """The video's, in pixels."""
        return self.canvas.height * self.enlarge


def run_animate(options: Namespace) -> None:
    """The whole command. Every input is checked before any weights are loaded."""
    if not options.plan:
        _check_output(options)
    job = _job(options)
    if options.plan:
        _print_plan(options, job)
        return
    _render(options, job, _models(options))


def _job(options: Namespace) -> Job:
    config = model_config(_files(options).transformer)
    _check_enlargement(options.enlarge)
    settings = settings_for(
        config.defaults,
        steps=options.steps,
        guidance_scale=options.guidance,
        sampler=options.sampler,
        seed=options.seed,
    )
    settings = replace(
        settings,
        posterior=options.posterior,
        sequential=options.low_memory,
        on_access=options.low_memory,
    )
    portrait = read_picture(options.portrait)
    rate = config.segment.sample_rate
    waveform = to_mono(read_recording(options.speech), rate)
    return Job(
        config=config,
        settings=settings,
        portrait=portrait,
        canvas=fit(portrait, config.segment.shape),
        speech=Recording(waveform[None], rate),
        plan=plan_segments(len(waveform), config.segment),
        enlarge=options.enlarge,
    )


def _print_plan(options: Namespace, job: Job) -> None:
    run = bill(job.config.name, job.plan, job.settings, job.width, job.height)
    print(json.dumps(as_dict(run)) if options.json else run.text())


def _models(options: Namespace) -> Models:
    device, numbers = _device(options.device), options.dtype
    if numbers == "auto":
        numbers = "fp32" if device.type == "cpu" else "bf16"
    if options.model.resolve() == FOLDER:
        print("note: the built-in model has learned drawn faces only, not photographs.", file=sys.stderr)
    offload = options.offload or ("blocks" if options.low_memory and device.type != "cpu" else "none")
    files, precision = _files(options), precision_named(numbers)
    examined = None if options.model.resolve() == FOLDER and not files.given else remembered()
    return load_models(files, device, precision, offload=offload, examined=examined)


def _files(options: Namespace) -> ModelFolder:
    given = {part: path for part in (*PARTS, "tokenizer") if (path := getattr(options, part)) is not None}
    return ModelFolder(options.model, given)


def _render(options: Namespace, job: Job, models: Models) -> None:
    started = time.monotonic()
    segments, steps = len(job.plan), job.settings.steps
    writer = VideoWriter(
        options.output,
        width=job.width,
        height=job.height,
        fps=job.config.segment.fps,
        sound=options.speech,
    )
    with tqdm(total=segments * steps, unit="step", desc=f"segment 1/{segments}") as bar, writer as video:

        def watch(progress: Progress) -> None:
            bar.set_description(f"segment {progress.segment + 1}/{segments}", refresh=False)
            bar.update(progress.segment * steps + progress.step - bar.n)

        try:
            for _, frames in animate(
                job.portrait, job.speech, options.prompt, models, job.settings, watch=watch
            ):
                for n in range(len(frames)):  # one by one: large ones together would not fit into memory
                    video.write(enlarged(frames[n : n + 1], job.enlarge))
        except BaseException:
            if video.frames:
                bar.write(f"note: {video.frames} finished frames are kept in {video.partial}", sys.stderr)
            raise
    print(
        f"{options.output}: {writer.frames} frames, {writer.frames / job.config.segment.fps:.2f} s, "
        f"{job.width} x {job.height}, in {time.monotonic() - started:.1f} s"
    )


def _check_enlargement(times: int) -> None:
    if not 1 <= times <= LARGEST:
        raise InputError(
            "The frames cannot be enlarged so many times.",
            found=f"--enlarge {times}",
            expected=f"a whole number from 1 to {LARGEST}",
            do="choose a value in that range, or leave --enlarge out",
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise InputError(
            "This device is not available.",
            found=f"--device {name}",
            expected=" or ".join(device for device, there in available.items() if there),
            do="choose one of these, or leave --device out",
        )
    return torch.device(name)


def _check_output(options: Namespace) -> None:
    """Refuse now what could not be written in an hour."""
    path: Path | None = options.output
    if path is None or path.suffix.lower() != ".mp4":
        problem = "no -o" if path is None else f"-o {path}"
        raise _refused(problem, "a file name that ends in .mp4", "name the video with -o OUT.mp4")
    if path.is_dir():
        raise _refused(f"{path} is a folder", "a file name", "choose another name")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise _refused(f"no folder {folder}", "a folder that exists", "make it first, or choose another")
    for source in (options.portrait, options.speech):
        if path.exists() and source.exists() and path.samefile(source):
            raise _refused(f"{path} is an input", "another file", "choose another name")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refused(f"{folder}: {reason}", "a folder you may write to", "choose another") from error


def _refused(found: str, expected: str, do: str) -> InputError:
    return InputError("The video cannot be written there.", found=found, expected=expected, do=do)
