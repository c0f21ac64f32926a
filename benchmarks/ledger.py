"""Count a sampling step at full size, without weights: ``python -m benchmarks counts``.

On the meta device: operations, bytes moved and bytes held, of ours and of a baseline that does what the
original does. FLOP are counted with torch's own operations, bytes with one operation each for the kernels
that are fused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bars import Bar, Panel, draw_bars
from benchmarks.baseline import Baseline
from benchmarks.tracking import Tracker, attention, tracked
from hallo3.config import HALLO3, Hallo3Config
from hallo3.media.image import write_picture
from hallo3.model.conditions import RunConditions, SegmentConditions
from hallo3.model.guidance import GUIDANCE_PASSES, Predict
from hallo3.model.kernels.eager import PLAIN, Kernels
from hallo3.model.kernels.fused import FUSED
from hallo3.model.layers import Attention, Layers, sdpa
from hallo3.model.transformer import Hallo3Transformer

ORIGINAL = {"flop": 8.369084e14, "bytes": 1.318e12, "peak": 4.17e9}
"""One step of the original, both guidance branches, counted the same way."""
KERNELS: tuple[Kernels, ...] = (PLAIN, FUSED)


class OnMeta:
    """The transformer and what a step reads, as shapes."""

    def __init__(
        self, config: Hallo3Config, kernels: Kernels = PLAIN, attend: Attention = attention, steps: int = 1
    ) -> None:
        layers = Layers(device="meta", dtype=torch.bfloat16, kernels=kernels, attention=attend)
        self.dit = Hallo3Transformer(config, layers).requires_grad_(False)
        latent, trunk = config.segment.shape.latent, config.trunk
        self.features = [_shape(1, latent.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
        self.face = _shape(1, config.face.embedding_dim)
        self.prompt = _shape(1, trunk.text_tokens, trunk.text_dim)
        self.windows = _shape(1, *self.dit.window_shape)
        self.image_latents = _shape(1, trunk.latent_channels, *latent)
        self.latents = torch.empty(1, trunk.latent_channels, *latent, device="meta")
        self.timesteps = torch.full((steps,), 999.0)

    def prepare(self) -> tuple[RunConditions, SegmentConditions]:
        """What is constant for a run, and for a segment."""
        run = self.dit.prepare(self.features, self.face, self.prompt, self.timesteps)
        return run, SegmentConditions(
            audio=self.dit.encode_audio(self.windows), image_latents=self.image_latents
        )

    def baseline(self) -> Baseline:
        """The same step as the original takes it."""
        return Baseline(
            dit=self.dit,
            features=self.features,
            face=self.face,
            prompt=self.prompt,
            windows=self.windows,
            image_latents=self.image_latents,
            timesteps=self.timesteps,
            attention=self.dit.transformer_blocks[0].attn1.attention,  # type: ignore[union-attr]
        )


def _shape(*extents: int) -> Tensor:
    return torch.empty(*extents, device="meta", dtype=torch.bfloat16)


@torch.inference_mode()
def flop(config: Hallo3Config) -> dict[str, int]:
    """FLOP of a step, ours and the baseline's, and of what is prepared; no operation of ours hides any."""
    there = OnMeta(config, attend=sdpa)
    with FlopCounterMode(display=False) as preparation:
        prepared = there.prepare()
    with FlopCounterMode(display=False) as step:
        GUIDANCE_PASSES["batched"](there.dit, *prepared)(there.latents, 0)
    with FlopCounterMode(display=False) as plain:
        there.baseline()(there.latents, 0)
    attended = step.get_flop_counts()["Global"][torch.ops.aten.bmm]
    return {
        "step": step.get_total_flops(),
        "of it attention": attended,
        "baseline": plain.get_total_flops(),
        "preparation": preparation.get_total_flops(),
    }


@torch.inference_mode()
def moved(predict: Predict, latents: Tensor) -> dict[str, Any]:
    """Bytes that a step moves and, besides weights and conditions, holds at once; operations."""
    step: Tracker = tracked(lambda: predict(latents, 0))
    return {
        "bytes": step.traffic,
        "peak": step.peak,
        "operations": step.operations,
        "by_operation": dict(step.moved.most_common(8)),
    }


@torch.inference_mode()
def count(config: Hallo3Config) -> dict[str, Any]:
    """Every count of a step."""
    rows: dict[str, Any] = {}
    for kernels in KERNELS:
        there = OnMeta(config, kernels)
        prepared = there.prepare()
        for name, branches in GUIDANCE_PASSES.items():
            rows[f"{kernels.name}, {name}"] = moved(branches(there.dit, *prepared), there.latents)
    there = OnMeta(config)
    rows["baseline"] = moved(there.baseline(), there.latents)
    counted, shape = flop(config), config.segment.shape
    return {
        "config": config.name,
        "segment": f"{shape.frames} frames of {shape.width} x {shape.height}",
        "flop": counted,
        "steps": rows,
        "original": ORIGINAL,
        "ratio": counted["step"] / ORIGINAL["flop"],
    }


def table(counts: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{'a step':24} {'TB moved':>9} {'GB at once':>11} {'operations':>11}"]
    for name, row in counts["steps"].items():
        lines.append(f"{name:24} {row['bytes'] / 1e12:9.3f} {row['peak'] / 1e9:11.2f} {row['operations']:11}")
    step, ratio = counts["flop"]["step"], counts["ratio"]
    return "\n".join([*lines, f"FLOP {step:.6e}, {ratio:.4f} of the original's {ORIGINAL['flop']:.6e}"])


def cost_chart(counts: dict[str, Any]) -> Tensor:
    """The original's step beside ours: FLOP, bytes moved, bytes held at once."""
    rows = {name: row for name, row in counts["steps"].items() if name.startswith("fused")}
    rows = {"ours, plain, batched": counts["steps"]["plain, batched"]} | {
        f"ours, {name}": row for name, row in rows.items()
    }
    original = counts["original"]
    operations = {"original": original["flop"], "ours": counts["flop"]["step"]}
    moved = {"original": original["bytes"]} | {name: row["bytes"] for name, row in rows.items()}
    held = {"original": original["peak"]} | {name: row["peak"] for name, row in rows.items()}

    def panel(title: str, about: str, values: dict[str, float], unit: float, name: str) -> Panel:
        digits = 2 if max(values.values()) < 100 * unit else 0
        texts = {label: f"{value / unit:.{digits}f} {name}" for label, value in values.items()}
        bars = [Bar(label, value, texts[label], label != "original") for label, value in values.items()]
        return Panel(title, about, tuple(bars))

    frames = counts["segment"]
    return draw_bars(
        "What a sampling step costs",
        f"the released model's size, {frames}, both guidance branches; counted without weights, no times",
        [
            panel("Operations", "FLOP; the same however branches are computed", operations, 1e12, "TFLOP"),
            panel("Memory traffic", "bytes read and written by all operations", moved, 1e12, "TB"),
            panel("Memory at work", "bytes held at once besides weights and conditions", held, 1e9, "GB"),
        ],
    )


def main() -> None:
    """Count, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the counts here")
    parser.add_argument("--chart", type=Path, metavar="PNG", help="also draw them")
    options = parser.parse_args()
    found = count(HALLO3)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.chart:
        write_picture(cost_chart(found), options.chart)


if __name__ == "__main__":
    main()
