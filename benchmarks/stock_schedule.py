"""How far ComfyUI's stock ``dpmpp_2m_sde`` + ``simple`` lies from the original's own schedule.

    make bench-comfyui

The step formula is the same; the schedule is not (the original rescales the steps it picked and snaps them
to its table). Compared with equal noise: both schedules through the original's sampler on the built-in model,
segment 0, and the signal's share of every step.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import hallo3  # noqa: E402
from comfyui.host import Host  # noqa: E402
from comfyui.stages import Stages, difference  # noqa: E402

STEPS = (8, 20, 50)


def measured(stages: Stages, steps: int) -> dict[str, float]:
    """Shares and end latents, stock against original."""
    import comfy.samplers

    original = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=steps)[0]
    stock = comfy.samplers.calculate_sigmas(stages.model.model.model_sampling, "simple", steps)
    shares = [1 / torch.sqrt(1 + sigmas.double() ** 2) for sigmas in (original, stock)]
    sampler = stages.run("Hallo3OriginalSampler", sampler_name="dpmpp_2m_sde")[0]
    given = stages.given(segment=0, steps=steps, guidance_scale=3.5, sampler=sampler)
    ends = [stages.run("Hallo3Sampler", **given, sigmas=sigmas)[0]["samples"] for sigmas in (original, stock)]
    apart = float((ends[0] - ends[1]).std() / ends[0].std())
    return {"largest_share_difference": difference(*shares), "end_latents_relative_rms": apart}


@torch.inference_mode()
def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        samples = ROOT / "samples"
        picture = hallo3.read_picture(samples / "portrait.png")
        stages = Stages(host, picture, hallo3.read_recording(samples / "speech.wav"))
        found: dict[str, Any] = {str(steps): measured(stages, steps) for steps in STEPS}
    text = json.dumps(found, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
