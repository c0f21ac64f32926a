"""Count a sampling step at full size, without weights: ``python benchmarks/ledger.py [--json FILE]``.

FLOP are counted by torch on the meta device, where attention is counted too (on the CPU it is not).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hallo3.config import Hallo3Config
from hallo3.model.conditions import RunConditions, SegmentConditions
from hallo3.model.guidance import batched_branches
from hallo3.model.transformer import Hallo3Transformer
from hallo3.ops import Layers
from hallo3.presets import HALLO3

ORIGINAL_STEP = 8.369084e14
"""FLOP of one step of the original, both guidance branches, counted the same way."""


def prepared_on_meta(config: Hallo3Config) -> tuple[Hallo3Transformer, RunConditions, SegmentConditions]:
    """The transformer and its conditions as shapes."""
    dit = Hallo3Transformer(config, Layers(device="meta", dtype=torch.bfloat16))
    latent, trunk = config.segment.shape.latent, config.trunk

    def shape(*extents: int) -> torch.Tensor:
        return torch.empty(*extents, device="meta", dtype=torch.bfloat16)

    features = [shape(1, latent.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
    prompt = shape(1, trunk.text_tokens, trunk.text_dim)
    run = dit.prepare(features, shape(1, config.face.embedding_dim), prompt, torch.tensor([999.0]))
    heard = SegmentConditions(
        audio=dit.hear(shape(1, *dit.window_shape)),
        image_latents=shape(1, trunk.latent_channels, *latent),
    )
    return dit, run, heard


@torch.no_grad()
def count(config: Hallo3Config) -> dict[str, Any]:
    """FLOP of a step and of what is prepared, in total and by operation."""
    with FlopCounterMode(display=False) as preparation:
        dit, run, heard = prepared_on_meta(config)
    predict = batched_branches(dit, run, heard)
    latents = torch.empty_like(heard.image_latents)
    with FlopCounterMode(display=False) as step:
        predict(latents, 0)
    by_operation = {str(op): flop for op, flop in step.get_flop_counts()["Global"].items()}
    return {
        "config": config.name,
        "step": step.get_total_flops(),
        "step_by_operation": by_operation,
        "preparation": preparation.get_total_flops(),
        "original_step": ORIGINAL_STEP,
        "ratio": step.get_total_flops() / ORIGINAL_STEP,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the counts here")
    options = parser.parse_args()
    counts = count(HALLO3)
    print(f"step {counts['step']:.6e} FLOP, {counts['ratio']:.4f} of the original's {ORIGINAL_STEP:.6e}")
    if options.json:
        options.json.write_text(json.dumps(counts, indent=1) + "\n")
