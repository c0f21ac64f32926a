"""Where a drawn head looks, estimated from pixels around it.

Four maps of a head (skin, red as lips are, light as eyes are, dark as hair) are averaged over a grid; a fit
with one hidden layer turns them into yaw and pitch. ``python -m training.angle`` fits it on drawn people and
tells its error on others; the coefficients are in ``angle.json``.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from .pixels import Region, measure_skin

COEFFICIENTS = Path(__file__).with_name("angle.json")
GRID, REACH = 16, 1.25
"""Cells per side over the head's outline and a margin around it."""
MAPS = 4
SKIN_WIDTH = 0.24
"""Standard deviation of skin, relative to its brightness."""
STEPS = 127
"""Coefficients are whole numbers up to this, times a scale per layer."""


def measure_angles(frames: Tensor, portrait: Tensor, box: Region) -> Tensor:
    """Yaw and pitch [F, 2] in radians of the head that is near ``box`` in frames [F, 3, H, W] and in the
    portrait [3, h, w]. The light has to be the portrait's."""
    maps = describe_head(frames, measure_skin(portrait, box), box)
    mirrored = maps.flip(-1)
    return (evaluate(maps) + evaluate(mirrored) * torch.tensor((-1.0, 1.0))) / 2


def describe_head(frames: Tensor, skin: Tensor, box: Region) -> Tensor:
    """Maps [F, 4, GRID, GRID] in -1..1."""
    around = _sample(frames, box.part(-REACH, -REACH, REACH, REACH), 2 * GRID)
    bright = skin.mean().clamp_min(0.1)
    distance = (around - skin[:, None, None]).square().sum(dim=1)
    maps = (
        torch.exp(-distance / (2 * (SKIN_WIDTH * bright) ** 2)),
        (_measure_red(around) - _measure_red(skin[None, :, None, None])).clamp(0, 0.3) / 0.3,
        ((around.amin(dim=1) - skin.min()) / (1 - skin.min()).clamp_min(0.2)).clamp(0, 1),
        ((around.mean(dim=1) - bright) / bright).clamp(-1, 0),
    )
    return F.avg_pool2d(torch.stack(maps, dim=1), 2)


def _measure_red(colours: Tensor) -> Tensor:
    return (colours[:, 0] - colours[:, 1]) / colours.sum(dim=1).clamp_min(0.1)


def _sample(frames: Tensor, region: Region, side: int) -> Tensor:
    """Frames [F, 3, side, side] of a region; beyond the edges they repeat."""
    height, width = frames.shape[-2:]
    share = (torch.arange(side) + 0.5) / side
    x = (region.left + (region.right - region.left) * share) * height / width
    y = region.top + (region.bottom - region.top) * share
    rows, columns = torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1)[None].expand(len(frames), -1, -1, -1)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def evaluate(maps: Tensor) -> Tensor:
    """Yaw and pitch [F, 2] in radians from maps [F, 4, GRID, GRID]."""
    hidden, hidden_bias, out, out_bias = _read_coefficients()
    return torch.tanh(maps.flatten(1) @ hidden.T + hidden_bias) @ out.T + out_bias


@cache
def _read_coefficients() -> tuple[Tensor, ...]:
    known = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))["layers"]
    return tuple(torch.tensor(layer["values"]) * (layer["largest"] / STEPS) for layer in known)


def write_coefficients(layers: list[Tensor], errors: dict[str, float]) -> None:
    known = []
    for layer in layers:
        largest = float(layer.abs().max())
        known.append({"largest": largest, "values": (layer * STEPS / largest).round().int().tolist()})
    text = json.dumps({"errors": errors, "layers": known}, separators=(",", ":"))
    COEFFICIENTS.write_text(text + "\n", encoding="utf-8")
    _read_coefficients.cache_clear()


def turn_error(yaws: Tensor, yaw: float) -> float:
    """Difference in degrees of the mean of yaws [F] from another, in radians."""
    return math.degrees(abs(float(yaws.mean()) - yaw))
