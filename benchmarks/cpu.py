"""Times on this machine's CPU: ``python -m benchmarks cpu [--json FILE]``.

Seconds a NANO segment (2 steps, guidance on), and torch's own small 3D convolutions against oneDNN's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.report import machine
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.pipeline import animate
from hallo3.quantization.precision import PRECISIONS
from hallo3.settings import settings_for
from hallo3.vae.causal_conv import OneDNNConvolutions

SHAPES = ((8, 4, 6, 6), (8, 10, 18, 18), (16, 11, 34, 34), (16, 11, 66, 98), (32, 11, 66, 98))
"""Padded inputs of the small VAEs' convolutions: channels, frames, height, width."""


def segment_seconds(count: int = 20) -> dict[str, float]:
    """Time of NANO segments after the first one."""
    with tempfile.TemporaryDirectory() as folder:
        config = write_random_set(Path(folder), 0, "nano")
        models = load_models(Path(folder), torch.device("cpu"), PRECISIONS["fp32"])
        frames = (count + 1) * config.segment.new_frames
        speech = Recording(torch.sin(torch.arange(frames * 640) / 30)[None], 16000)
        made = animate(torch.rand(3, 64, 64), speech, "", models, settings_for(config.defaults))
        next(made)
        times: list[float] = []
        for _ in range(count):
            start = time.perf_counter()
            next(made)
            times.append(time.perf_counter() - start)
    return {"median": median(times), "min": min(times), "max": max(times)}


def milliseconds(run: Callable[[], object], count: int = 10) -> float:
    run()
    times: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


@torch.no_grad()
def convolutions() -> list[dict[str, Any]]:
    """3 x 3 x 3 convolutions of one clip, torch's choice against oneDNN."""
    rows: list[dict[str, Any]] = []
    for channels, *extent in SHAPES:
        signal = torch.randn(1, channels, *extent)
        weight = torch.randn(channels, channels, 3, 3, 3)
        plain = milliseconds(lambda s=signal, w=weight: torch.conv3d(s, w, None, (1, 1, 1), (0, 0, 0)))
        with OneDNNConvolutions():
            args = (None, (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
            fast = milliseconds(lambda s=signal, w=weight, a=args: torch.conv3d(s, w, *a))
        rows.append({"input": [channels, *extent], "torch_ms": plain, "onednn_ms": fast})
    return rows


def report() -> dict[str, Any]:
    """Every figure, and the machine they belong to."""
    return {
        "machine": machine(),
        "nano_segment_seconds": segment_seconds(),
        "convolutions": convolutions(),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    figures = report()
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
