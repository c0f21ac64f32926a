"""torch.compile on the MODEL, as ComfyUI's TorchCompileModel node does it: ``make bench-comfyui``.

Two steps of segment 0 of the built-in model through KSampler (euler), plain, then compiled twice: the first
time pays for compiling. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import hallo3  # noqa: E402
from comfyui.host import Host  # noqa: E402
from comfyui.stages import Stages, difference  # noqa: E402


@torch.inference_mode()
def main() -> None:
    """Measure and print, or write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samples = ROOT / "samples"
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        recording = hallo3.read_recording(samples / "speech.wav")
        stages = Stages(host, hallo3.read_picture(samples / "portrait.png"), recording)
        from comfy_extras.nodes_torch_compile import TorchCompileModel

        plain = stages.ksampled("euler", "simple")
        compiled = TorchCompileModel.execute(stages.model, "inductor").result[0]
        seconds: list[float] = []
        for _ in range(2):
            begun = time.perf_counter()
            found = stages.ksampled("euler", "simple", model=compiled)
            seconds.append(round(time.perf_counter() - begun, 2))
    result: dict[str, Any] = {
        "seconds_first": seconds[0],
        "seconds_again": seconds[1],
        "largest_latent_difference": difference(found, plain),
    }
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
