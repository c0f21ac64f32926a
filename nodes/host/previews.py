"""Latents -> colours, for the previews ComfyUI shows while it samples.

``make pictures`` fits the factors to a model's own VAE and writes them beside this file. Of the real VAE
none are known to us, so it has no preview.
"""

from __future__ import annotations

import json
from pathlib import Path

FACTORS = Path(__file__).with_name("preview_factors.json")


def rgb_factors(name: str) -> tuple[list[list[float]] | None, list[float] | None]:
    """Factors [C][3] and bias [3] of a model by its configuration's name; None when there are none."""
    found = json.loads(FACTORS.read_text(encoding="utf-8")).get(name)
    return (found["factors"], found["bias"]) if found else (None, None)
