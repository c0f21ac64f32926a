"""The built-in model: how it behaves on unseen portraits and sentences, and what approximations do to it.

``built-in`` renders all cases with the model's own settings: single people, pairs, prompts; then long
speech, silence, other steps, samplers and presets on a few cases, and measures CPU-seconds per second of
video. Every row is written when it is known; with ``--json`` of the same file and model, a stopped run
resumes. ``approximations`` compares with what the original does: 50 steps of dpmpp_2m_sde, guidance 3.5. All
its rows have the same portraits, speech and seed; ``evaluations`` are forward passes per segment. The model
is small and has learned drawn people: this says nothing about the released weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from behaviour.carry import measure_carry
from behaviour.cases import Case, pairs, read_cases, read_prompts, singles
from behaviour.figures import measure_video, summarize, summarize_prompts
from behaviour.suite import (
    give_speech,
    make_identity,
    make_long_case,
    measure_cases,
    measure_pairs,
    measure_prompts,
    measure_silence,
    measure_unprompted,
    render_case,
    shorten,
)
from benchmarks.built_in_floors import check_floors, draw_pictures, write_table
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
STEPS, SAMPLERS, FEW_CASES = (1, 2, 4, 8), ("ddim", "dpmpp_2m_sde"), 3
GUIDANCE = 2.0
"""Of the rows that measure guidance, where the model's own is none."""
FIGURES = ("follows", "amplitude", "silent", "colour", "yaw", "seam", "sharpness", "change")
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
            identity, speech = (
                make_identity(case, models, settings),
                encode_speech(case.speakers[0].speech, models),
            )
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
            measure_video(frames, case, new_frames=new)
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
    cases = singles(read_cases(CASES_DIR, models.config.segment))[: options.cases]
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


def measure_speed(cases: Sequence[Case], models: Models) -> dict[str, float]:
    """CPU-seconds of all threads, and seconds, per second of video, over 20 s."""
    render_case(shorten(cases[0], models), models)  # warm up
    case = make_long_case(cases, cases[0], models, 20)
    cpu, wall = time.process_time(), time.perf_counter()
    render_case(case, models)
    length = case.frames / models.config.segment.fps
    return {
        "cpu_seconds": (time.process_time() - cpu) / length,
        "seconds": (time.perf_counter() - wall) / length,
        "threads": torch.get_num_threads(),
    }


def measure_long(cases: Sequence[Case], models: Models, seconds: int) -> dict[str, float]:
    case = make_long_case(cases, cases[1], models, seconds)
    frames, new = render_case(case, models), models.config.segment.new_frames
    return measure_video(frames, case, new_frames=new).as_dict()


def measure_speech(case: Case, models: Models, path: Path) -> dict[str, float]:
    spoken = give_speech(case, [read_recording(path)], models)
    frames, new = render_case(spoken, models), models.config.segment.new_frames
    return measure_video(frames, replace(spoken, change=float("nan")), new_frames=new).as_dict()


Measure = Callable[[], dict[str, float]]


def list_rows(options: Namespace, models: Models) -> dict[str, Measure]:
    """What is measured, by name, the most important first. ``chance``: any of the portraits; everyone looks
    straight ahead."""
    known = read_cases(CASES_DIR, models.config.segment)
    people, couples, prompts = (
        singles(known)[: options.cases],
        pairs(known)[: options.cases],
        read_prompts(CASES_DIR),
    )
    few, names = people[:FEW_CASES], {case.name for case in people}
    prompts = [each for each in prompts if each.name in names]
    rows: dict[str, Measure] = {
        "people": lambda: summarize(measure_cases(people, models)),
        "people, by chance": lambda: summarize(measure_cases(few, models, speech_of=couples[0])),
        "chance": lambda: {
            "own": 1 / len(people),
            "yaw": fmean(math.degrees(abs(case.heads[0].yaw)) for case in people),
        },
        "pairs": lambda: summarize(measure_pairs(couples, models)),
        "pairs, voices swapped": lambda: summarize(measure_pairs(couples, models, swapped=True)),
        "prompts": lambda: summarize_prompts(measure_prompts(people, prompts, models)),
        "prompts, by chance": lambda: summarize_prompts(measure_unprompted(people, prompts, models)),
        "speed": lambda: measure_speed(people, models),
        "silence": lambda: {case.name: measure_silence(case, models) for case in few},
        "carried on from motion frames": lambda: {case.name: measure_carry(case, models) for case in few},
    }
    rows |= {f"{seconds} s": partial(measure_long, people, models, seconds) for seconds in options.seconds}
    rows |= {
        f"real speech {path.stem}": partial(measure_speech, people[0], models, path)
        for path in options.speech
    }
    if options.no_table:
        return rows

    def changed(settings: dict[str, Any]) -> Measure:
        return lambda: summarize(measure_cases(few, models, **settings))

    for sampler in SAMPLERS:
        rows |= {f"{sampler}, {n} steps": changed({"sampler": sampler, "steps": n}) for n in STEPS}
    guided = {"guidance_scale": max(GUIDANCE, models.config.defaults.guidance_scale)}
    rows["guided"] = changed(guided)
    for name, each in APPROXIMATIONS.items():
        if "steps" not in each.changes:
            rows[name] = changed({**guided, **each.changes})
    return rows


def measure_built_in(options: Namespace) -> Iterator[Result]:
    """The rows that are known, each time with one more."""
    models = load_models(options.model, CPU, "fp32")
    digest = digest_model(options.model)
    known = read_known(options.json, digest)
    for name, measure in list_rows(options, models).items():
        if name not in known:
            known[name] = {key: round(value, 3) for key, value in measure().items() if value == value}
            print(name, json.dumps(known[name]), flush=True)
        yield {"model": digest, "floors": check_floors(known), "rows": known}
    if options.table:
        options.table.write_text(write_table(known), encoding="utf-8")
    if options.pictures:
        draw_pictures(options.pictures, models, CASES_DIR)


def digest_model(folder: Path) -> str:
    """Of the weights, so that rows of another model are measured again."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("**/*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_known(path: Path | None, digest: str) -> dict[str, dict[str, float]]:
    """Rows of a file that an earlier run with the same model wrote."""
    if path is None or not path.exists():
        return {}
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["rows"] if result.get("model") == digest else {}


def add_built_in_options(parser: ArgumentParser) -> None:
    add: Any = parser.add_argument
    add("--model", type=Path, default=FOLDER, metavar="DIR")
    add("--pictures", type=Path, metavar="DIR", help="also draw people, pairs and prompts into this folder")
    add("--table", type=Path, metavar="MD", help="also write the floors and rows as a page")
    add("--speech", type=Path, nargs="*", default=[], metavar="FILE", help="real recordings")
    add("--seconds", type=int, nargs="*", default=[60], help="lengths to measure drift in (default: 60)")
    add("--no-table", action="store_true", help="without other steps, samplers and presets")
    add("--cases", type=int, metavar="N", help="number of cases (default: all)")


def add_approximation_options(parser: ArgumentParser) -> None:
    parser.add_argument("--cases", type=int, default=2, metavar="N", help="number of cases (default: 2)")


BUILT_IN = Scenario(measure=measure_built_in, add_options=add_built_in_options, show=lambda *_: None)
APPROXIMATE = Scenario(
    measure=measure_approximations, add_options=add_approximation_options, show=lambda *_: None
)
