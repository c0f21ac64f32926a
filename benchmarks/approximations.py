"""What approximations do to the built-in model's videos: ``python benchmarks/approximations.py``.

    python benchmarks/approximations.py --json docs/measurements/approximations.json

Exact is what the original does: 50 steps of dpmpp_2m_sde, guidance 3.5. Every row is made of the same
portraits, speech and seed; PSNR and SSIM are of its frames to the exact ones, ``evaluations`` are forward
passes a segment, the rest are figures of :mod:`behaviour`. Another seed shows what noise alone does. The
model is small, has learned drawn faces, and is made for one step: this says nothing about the released
weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)

import torch  # noqa: E402
from mixtures import REUSES  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from behaviour.cases import Case, read_cases  # noqa: E402
from behaviour.figures import measure_video, summarize  # noqa: E402
from behaviour.suite import make_identity  # noqa: E402
from hallo3.built_in import FOLDER  # noqa: E402
from hallo3.loading import load_models  # noqa: E402
from hallo3.models import Models  # noqa: E402
from hallo3.noise import make_noise  # noqa: E402
from hallo3.pipeline import RenderProgress, encode_prompt, encode_speech, make_step_cache, render_identity  # noqa: E402  # noqa: E402
from hallo3.quantization.precision import PRECISIONS  # noqa: E402
from hallo3.sampling.step_cache import CacheReport  # noqa: E402
from hallo3.settings import (  # noqa: E402
    APPROXIMATIONS,
    Settings,
    settings_for,
)

CASES = ROOT / "tests" / "data" / "behaviour"
TOLD = ("follows", "amplitude", "silent", "colour", "seam", "sharpness")
EXACT = Settings(steps=50, guidance_scale=3.5, sampler="dpmpp_2m_sde")
INTERVALS = ((0.1, 0.7), (0.2, 0.8), (0.3, 1.0), (0.0, 0.5))
SEGMENTS = 2
"""How many of every case, to be done in minutes."""
TOGETHER = ("guidance-middle", "step-cache", "steps-30"), ("guidance-middle", "steps-20")


@dataclass(frozen=True, slots=True)
class Made:
    """The first ``frames`` of every case, forward passes a segment, what the cache did, and seconds."""

    frames: list[Tensor]
    evaluations: float
    cache: CacheReport
    seconds: float


def make(cases: Sequence[Case], models: Models, settings: Settings) -> Made:
    """The videos of all cases, with every forward pass counted."""
    videos: list[Tensor] = []
    cache, passes, segments, began = CacheReport(), 0, 0, time.perf_counter()

    def watch(progress: RenderProgress) -> None:
        nonlocal cache, segments
        if progress.step == progress.steps:
            segments += 1
            cache += progress.cache or CacheReport()

    def count(_module: object, inputs: tuple[Tensor, ...], _made: object) -> None:
        nonlocal passes
        passes += len(inputs[0])

    with models.transformer as dit, torch.inference_mode():
        hook = dit.proj_out.register_forward_hook(count)
        try:
            for case in cases:
                who, speech = make_identity(case, models, settings), encode_speech(case.speech, models)
                noise, prompt = make_noise(settings.seed), encode_prompt("", models)
                made = render_identity(who, speech, prompt, models, settings, noise, watch)
                videos.append(torch.cat([frames.pixels for frames in islice(made, SEGMENTS)]))
        finally:
            hook.remove()
    return Made(videos, passes / segments, cache, time.perf_counter() - began)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Of frames in 0..1; infinite for equal ones."""
    error = float((found - wanted).square().mean())
    return -10 * math.log10(error) if error else math.inf


def ssim(found: Tensor, wanted: Tensor, window: int = 7) -> float:
    """Structural similarity of frames [F, 3, H, W] in 0..1, over square windows (Wang et al. 2004)."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, 1)

    a, b = mean(found), mean(wanted)
    spread = mean(found * found) + mean(wanted * wanted) - a * a - b * b
    shared = mean(found * wanted) - a * b
    light = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    return float((light * (2 * shared + 0.03**2) / (spread + 0.03**2)).mean())


def row(made: Made, exact: Made, cases: Sequence[Case], models: Models) -> dict[str, Any]:
    """A video's figures and how far it is from the exact one."""
    new = models.config.segment.new_frames
    behaved = summarize(
        [
            measure_video(frames, case.portrait, case.mouth, new_frames=new, truth=case.truth)
            for frames, case in zip(made.frames, cases, strict=True)
        ]
    )
    found, wanted = torch.cat(made.frames), torch.cat(exact.frames)
    said: dict[str, Any] = {"evaluations": round(made.evaluations, 1)}
    if made is not exact:
        said |= {"psnr": round(psnr(found, wanted), 2), "ssim": round(ssim(found, wanted), 4)}
    if made.cache.steps:
        said |= {"worst_check": round(made.cache.worst, 3), "switched_off": made.cache.off}
    return said | {name: round(behaved[name], 3) for name in TOLD}


def rows(models: Models) -> dict[str, Settings]:
    """Every row's settings."""
    found = {
        "50 steps of dpmpp_2m_sde": EXACT,
        "the same, another seed": replace(EXACT, seed=1),
        "no guidance": replace(EXACT, guidance_scale=1.0),
        "the model's own settings": settings_for(models.config.defaults),
        "dpmpp_2m": replace(EXACT, sampler="dpmpp_2m"),
        "ddim": replace(EXACT, sampler="ddim"),
    }
    for name, row in APPROXIMATIONS.items():
        found[name] = row.apply(EXACT)
    found["dpmpp_2m, step-cache"] = APPROXIMATIONS["step-cache"].apply(replace(EXACT, sampler="dpmpp_2m"))
    for names in TOGETHER:
        settings = EXACT
        for name in names:
            settings = APPROXIMATIONS[name].apply(settings)
        found[" + ".join(names)] = settings
    for low, high in INTERVALS:
        found[f"guidance from {low:g} to {high:g}"] = replace(EXACT, guidance_interval=(low, high))
    return found


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--cases", type=int, default=2, metavar="N", help="so many of the cases (default: 2)")
    options = parser.parse_args()
    models = load_models(FOLDER, torch.device("cpu"), PRECISIONS["fp32"])
    cases = read_cases(CASES, models.config.segment)[: options.cases]
    kept: dict[str, Any] = {}
    exact: Made | None = None

    def keep(name: str, made: Made) -> None:
        nonlocal exact
        exact = exact or made
        kept[name] = row(made, exact, cases, models)
        print(f"{name:46} {json.dumps(kept[name])} {made.seconds:.0f} s", flush=True)

    for name, settings in rows(models).items():
        keep(name, make(cases, models, settings))
    for name, reuse in REUSES.items():
        with patch("hallo3.pipeline.make_step_cache", partial(make_step_cache, reuse=reuse)):
            made = make(cases, models, APPROXIMATIONS["step-cache"].apply(EXACT))
        keep(f"step-cache, {name}", made)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
