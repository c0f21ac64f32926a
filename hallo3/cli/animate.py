"""``hallo3 animate``: refuse what cannot work, then load, render and write."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..config import Hallo3Config
from ..errors import InputError
from ..load import ModelFolder, load_models
from ..media.canvas import Canvas, fit
from ..media.picture import read_picture
from ..media.sound import Recording, read_recording, to_mono
from ..media.video import VideoWriter
from ..models import Models
from ..pipeline import animate
from ..random_set import SIZES, write_random_set
from ..segments import SegmentPlan, plan_segments
from ..settings import Settings, settings_for
from ..stages import Progress
from .bill import as_dict, bill

RANDOM_SIZE, RANDOM_SEED = "tiny", 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run whose inputs have all been read and accepted; ``speech`` is mono at the encoder's rate."""

    config: Hallo3Config
    settings: Settings
    portrait: Tensor
    canvas: Canvas
    speech: Recording
    plan: SegmentPlan


def run_animate(options: Namespace) -> None:
    """The whole command. Every input is checked before any weights are loaded."""
    if not options.plan:
        _check_output(options)
    job = _job(options)
    if options.plan:
        _print_plan(options, job)
        return
    with ExitStack() as open_things:
        models = _models(options, open_things)
        _render(options, job, models)


def _job(options: Namespace) -> Job:
    config = ModelFolder(options.model).config() if options.model else SIZES[RANDOM_SIZE]
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
    )


def _print_plan(options: Namespace, job: Job) -> None:
    name = job.config.name if options.model else f"random {job.config.name} weights"
    run = bill(name, job.plan, job.settings, job.canvas.width, job.canvas.height)
    print(json.dumps(as_dict(run)) if options.json else run.text())


def _models(options: Namespace, open_things: ExitStack) -> Models:
    device, dtype = _device(options.device), options.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    folder = options.model
    if folder is None:
        folder = Path(open_things.enter_context(tempfile.TemporaryDirectory(prefix="hallo3-random-")))
        write_random_set(folder, RANDOM_SEED, RANDOM_SIZE)
        print(
            "note: no --model given, so this uses small random weights. They have learned nothing: "
            "the video will show patterns, not a talking face.",
            file=sys.stderr,
        )
    return load_models(folder, device, getattr(torch, dtype))


def _render(options: Namespace, job: Job, models: Models) -> None:
    started = time.monotonic()
    segments, steps = len(job.plan), job.settings.steps
    writer = VideoWriter(
        options.output,
        width=job.canvas.width,
        height=job.canvas.height,
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
                video.write(frames)
        except BaseException:
            if video.frames:
                bar.write(f"note: {video.frames} finished frames are kept in {video.partial}", sys.stderr)
            raise
    print(
        f"{options.output}: {writer.frames} frames, {writer.frames / job.config.segment.fps:.2f} s, "
        f"{job.canvas.width} x {job.canvas.height}, in {time.monotonic() - started:.1f} s"
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
