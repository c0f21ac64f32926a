"""The built-in model: how it behaves on unseen portraits and sentences, and what approximations do to it.

``built-in`` renders all cases with the model's own settings, then long speech, silence, other steps and
samplers on a few cases, and measures CPU-seconds per second of video. ``approximations`` compares with what
the original does: 50 steps of dpmpp_2m_sde, guidance 3.5. All its rows have the same portraits, speech and
seed; ``evaluations`` are forward passes per segment. The model is small, has learned drawn faces, and is made
for one step: this says nothing about the released weights.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from behaviour.carry import measure_carry
from behaviour.cases import Case, make_case, read_cases
from behaviour.figures import Figures, measure_video, summarize
from behaviour.suite import make_identity, make_long_case, measure_cases, measure_silence, render_case
from benchmarks.drift import RenderCounts, compare_videos
from benchmarks.mixtures import REUSES
from benchmarks.report import CPU, ROOT, Result, Scenario
from hallo3.built_in import FOLDER
from hallo3.loading import load_models
from hallo3.media.audio import read_recording
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.pipeline import encode_prompt, encode_speech, render_identity
from hallo3.settings import APPROXIMATIONS, Settings, make_step_cache, settings_for

CASES_DIR = ROOT / "tests" / "data" / "behaviour"
STEPS, SAMPLERS, FEW_CASES = (2, 4, 8, 20), ("ddim", "dpmpp_2m_sde"), 4
FIGURES = ("follows", "amplitude", "silent", "colour", "seam", "sharpness")
EXACT = Settings(steps=50, guidance_scale=3.5, sampler="dpmpp_2m_sde")
INTERVALS = ((0.1, 0.7), (0.2, 0.8), (0.3, 1.0), (0.0, 0.5))
SEGMENTS = 2
"""Rendered of every case, so that it takes minutes."""
TOGETHER = ("guidance-middle", "step-cache", "steps-30"), ("guidance-middle", "steps-20")


@dataclass(frozen=True, slots=True)
class Rendering:
    frames: list[Tensor]
    counts: RenderCounts


def render_cases(cases: Sequence[Case], models: Models, settings: Settings) -> Rendering:
    """The first segments of all cases."""
    videos, counts = list[Tensor](), RenderCounts()
    with torch.inference_mode(), counts.count(models):
        for case in cases:
            identity, speech = make_identity(case, models, settings), encode_speech(case.speech, models)
            noise, prompt = make_noise(settings.seed), encode_prompt("", models)
            segments = render_identity(identity, speech, prompt, models, settings, noise, counts.watch)
            videos.append(torch.cat([frames.pixels for frames in islice(segments, SEGMENTS)]))
    return Rendering(videos, counts)


def compare_with_exact(
    rendering: Rendering, exact: Rendering, cases: Sequence[Case], models: Models
) -> Result:
    new, counts = models.config.segment.new_frames, rendering.counts
    row: Result = {"evaluations": round(counts.evaluations / counts.segments, 1)}
    if rendering is not exact:
        compared = compare_videos(torch.cat(rendering.frames), torch.cat(exact.frames))
        row |= {"psnr": compared["psnr"], "ssim": compared["ssim"]}
    row |= counts.describe_cache()
    figures = summarize(
        [
            measure_video(frames, case.portrait, case.mouth, new_frames=new, truth=case.truth)
            for frames, case in zip(rendering.frames, cases, strict=True)
        ]
    )
    return row | {name: round(figures[name], 3) for name in FIGURES}


def list_variants(models: Models) -> dict[str, Settings]:
    """The exact one first."""
    variants = {
        "50 steps of dpmpp_2m_sde": EXACT,
        "the same, another seed": replace(EXACT, seed=1),
        "no guidance": replace(EXACT, guidance_scale=1.0),
        "the model's own settings": settings_for(models.config.defaults),
        "dpmpp_2m": replace(EXACT, sampler="dpmpp_2m"),
        "ddim": replace(EXACT, sampler="ddim"),
    }
    variants |= {name: each.apply(EXACT) for name, each in APPROXIMATIONS.items()}
    cache = APPROXIMATIONS["step-cache"]
    variants["dpmpp_2m, step-cache"] = cache.apply(replace(EXACT, sampler="dpmpp_2m"))
    for names in TOGETHER:
        settings = EXACT
        for name in names:
            settings = APPROXIMATIONS[name].apply(settings)
        variants[" + ".join(names)] = settings
    for low, high in INTERVALS:
        variants[f"guidance from {low:g} to {high:g}"] = replace(EXACT, guidance_interval=(low, high))
    return variants


def measure_approximations(options: Namespace) -> Result:
    models = load_models(FOLDER, CPU, "fp32")
    cases = read_cases(CASES_DIR, models.config.segment)[: options.cases]
    rows: Result = {}
    exact = render_cases(cases, models, EXACT)

    def add(name: str, rendering: Rendering) -> None:
        rows[name] = compare_with_exact(rendering, exact, cases, models)
        print(f"{name:46} {json.dumps(rows[name])}", flush=True)

    for name, settings in list_variants(models).items():
        add(name, exact if settings == EXACT else render_cases(cases, models, settings))
    for name, reuse in REUSES.items():
        with patch("hallo3.pipeline.make_step_cache", partial(make_step_cache, reuse=reuse)):
            add(f"step-cache, {name}", render_cases(cases, models, APPROXIMATIONS["step-cache"].apply(EXACT)))
    return rows


def measure_speed(cases: list[Case], models: Models) -> dict[str, float]:
    """CPU-seconds of all threads, and seconds, per second of video, over 20 s."""
    render_case(cases[0], models)  # warm up
    case = make_long_case(cases, cases[0].portrait, models, 20)
    cpu, wall = time.process_time(), time.perf_counter()
    render_case(case, models)
    length = len(case.mouth.open) / models.config.segment.fps
    return {
        "cpu_seconds": (time.process_time() - cpu) / length,
        "seconds": (time.perf_counter() - wall) / length,
        "threads": torch.get_num_threads(),
    }


def measure_built_in(options: Namespace) -> Result:
    models = load_models(options.model, CPU, "fp32")
    cases = read_cases(CASES_DIR, models.config.segment)[: options.cases]
    rows: Result = {}

    def add(name: str, figures: dict[str, float]) -> None:
        rows[name] = {key: round(value, 3) for key, value in figures.items() if value == value}
        print(name, json.dumps(rows[name]), flush=True)

    def measure(case: Case) -> Figures:
        frames, new = render_case(case, models), models.config.segment.new_frames
        return measure_video(frames, case.portrait, case.mouth, new_frames=new)

    add(f"own settings, {len(cases)} cases", summarize(measure_cases(cases, models)))
    add("speed", measure_speed(cases, models))
    add("silence", {case.name: measure_silence(case, models) for case in cases})
    add("carried on from motion frames", {case.name: measure_carry(case, models) for case in cases})
    for seconds in options.seconds:
        case = make_long_case(cases, cases[1].portrait, models, seconds)
        add(f"{seconds} s", measure(case).as_dict())
    for path in options.speech:
        case = make_case(path.stem, cases[0].portrait, read_recording(path), models.config.segment)
        add(f"real speech {path.stem}", measure(case).as_dict())
    for sampler in SAMPLERS if not options.no_table else ():
        for steps in STEPS:
            figures = measure_cases(cases[:FEW_CASES], models, sampler=sampler, steps=steps)
            add(f"{sampler}, {steps} steps, {FEW_CASES} cases", summarize(figures))
    if options.sheet:
        from training.sheets import render_people

        render_people(options.model, CASES_DIR).save(options.sheet)
    return rows


def add_built_in_options(parser: ArgumentParser) -> None:
    add: Any = parser.add_argument
    add("--model", type=Path, default=FOLDER, metavar="DIR")
    add("--sheet", type=Path, metavar="PNG", help="also draw frames of all portraits")
    add("--speech", type=Path, nargs="*", default=[], metavar="FILE", help="real recordings")
    add("--seconds", type=int, nargs="*", default=[60], help="lengths to measure drift in (default: 60)")
    add("--no-table", action="store_true", help="without other steps and samplers")
    add("--cases", type=int, metavar="N", help="number of cases (default: all)")


def add_approximation_options(parser: ArgumentParser) -> None:
    parser.add_argument("--cases", type=int, default=2, metavar="N", help="number of cases (default: 2)")


BUILT_IN = Scenario(measure=measure_built_in, add_options=add_built_in_options, show=lambda *_: None)
APPROXIMATE = Scenario(
    measure=measure_approximations, add_options=add_approximation_options, show=lambda *_: None
)
