"""The built-in model in a real ComfyUI (``make bench-comfyui``).

``stock-schedule``: ComfyUI's ``dpmpp_2m_sde`` + ``simple`` against the original's schedule, which rescales
the steps that it picked and rounds them to its table; the step formula is the same. Compared are the signal's
share of every step, and end latents of segment 0 with equal noise.

``torch-compile``: two steps of segment 0 through KSampler (euler), eager and through the node
TorchCompileModel, twice: the first run compiles. Needs a C++ compiler.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.report import ROOT, Result, Scenario

sys.path.append(str(ROOT / "tests"))

import hallo3
from comfyui.host import Host
from comfyui.stages import Stages, difference

STEPS = (8, 20, 50)


@contextmanager
def sample_stages() -> Generator[Stages]:
    """The nodes' stages on the sample portrait and speech."""
    samples = ROOT / "samples"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        picture = hallo3.read_picture(samples / "portrait.png")
        yield Stages(Host(Path(folder)), picture, hallo3.read_recording(samples / "speech.wav"))


def compare_schedules(stages: Stages, steps: int) -> dict[str, float]:
    import comfy.samplers

    original = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=steps)[0]
    stock = comfy.samplers.calculate_sigmas(stages.model.model.model_sampling, "simple", steps)
    shares = [1 / torch.sqrt(1 + sigmas.double() ** 2) for sigmas in (original, stock)]
    sampler = stages.run("Hallo3OriginalSampler", sampler_name="dpmpp_2m_sde")[0]
    inputs = stages.inputs(segment=0, steps=steps, guidance_scale=3.5, sampler=sampler)
    ends = [
        stages.run("Hallo3Sampler", **inputs, sigmas=sigmas)[0]["samples"] for sigmas in (original, stock)
    ]
    relative = float((ends[0] - ends[1]).std() / ends[0].std())
    return {"largest_share_difference": difference(*shares), "end_latents_relative_rms": relative}


def measure_schedules(_: Namespace) -> Result:
    with sample_stages() as stages:
        return {str(steps): compare_schedules(stages, steps) for steps in STEPS}


def measure_compile(_: Namespace) -> Result:
    with sample_stages() as stages:
        from comfy_extras.nodes_torch_compile import TorchCompileModel

        eager = stages.run_ksampler("euler", "simple")
        model = TorchCompileModel.execute(stages.model, "inductor").result[0]
        seconds: list[float] = []
        for _run in range(2):
            start = time.perf_counter()
            compiled = stages.run_ksampler("euler", "simple", model=model)
            seconds.append(round(time.perf_counter() - start, 2))
    return {
        "seconds_first": seconds[0],
        "seconds_again": seconds[1],
        "largest_latent_difference": difference(compiled, eager),
    }


STOCK_SCHEDULE = Scenario(measure=measure_schedules)
TORCH_COMPILE = Scenario(measure=measure_compile)
