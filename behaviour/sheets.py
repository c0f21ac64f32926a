"""Pictures of cases: a portrait per row, and frames of its video."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from .cases import Case
from .pixels import resize

FRAMES, COLOURS = 5, 256
"""Of a video, from its first tenth to its end; of the picture's palette."""


def make_sheet(rows: Sequence[tuple[Case, Tensor]]) -> Image.Image:
    """Of cases with their videos [F, 3, H, W] in 0..1."""
    strips: list[Tensor] = []
    for case, frames in rows:
        last = len(frames) - 1
        chosen = [frames[round(last * share)] for share in torch.linspace(0.1, 1, FRAMES).tolist()]
        strips.append(torch.cat([resize(case.portrait, *frames.shape[-2:]), *chosen], dim=2))
    pixels = (torch.cat(strips, dim=1).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).quantize(COLOURS, dither=Image.Dither.NONE)
