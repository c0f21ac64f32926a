"""Draw the sample portraits: ``python tools/draw_portraits.py`` (needs the extra ``training``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training.faces import Place, Pose  # noqa: E402
from training.grounds import Ground  # noqa: E402
from training.pictures import Cast, Look, draw_frame  # noqa: E402

HEIGHT, WIDTH = 480, 720


class Sample(NamedTuple):
    """People's names, places, and yaws and pitches in degrees; the ground's kind and name."""

    people: tuple[tuple[str, Place, tuple[float, float]], ...]
    ground: Ground


SAMPLES = {
    "portrait.png": Sample(
        (("sample|28", Place(0.82, 0.48, 0.95), (-34, 4)),), Ground("trees", "sample|1", "rain")
    ),
    "portrait_2.png": Sample((("sample|18", Place(0.70, 0.48, 0.95), (12, 0)),), Ground("sea", "sample|2")),
    "portrait_3.png": Sample((("sample|17", Place(0.66, 0.50, 0.92), (40, 10)),), Ground("wall", "sample|3")),
    "pair.png": Sample(
        (
            ("sample|24", Place(0.40, 0.48, 0.74), (32, 0)),
            ("sample|14", Place(1.10, 0.50, 0.72), (-30, 4)),
        ),
        Ground("clouds", "sample|4"),
    ),
}
"""None of them is in the training set, whose people have other names."""


def draw_sample(sample: Sample) -> Image.Image:
    names, places, angles = zip(*sample.people, strict=True)
    poses = [Pose(yaw=np.radians(yaw), pitch=np.radians(pitch)) for yaw, pitch in angles]
    return Image.fromarray(draw_frame(Look(sample.ground), Cast(names, places), poses, 0.0, HEIGHT, WIDTH))


def main() -> None:
    for file, sample in SAMPLES.items():
        draw_sample(sample).save(ROOT / "samples" / file, optimize=True)


if __name__ == "__main__":
    main()
