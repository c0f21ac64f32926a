"""Draw the sample portraits: ``python tools/draw_portraits.py`` (needs the extra ``training``)."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training.drawing import draw  # noqa: E402
from training.faces import Pose, make_person  # noqa: E402

PEOPLE = {"portrait.png": "sample|19", "portrait_2.png": "sample|18", "portrait_3.png": "sample|17"}
"""None is in the training set, whose people have other names."""
SIDE = 480


def main() -> None:
    for file, name in PEOPLE.items():
        Image.fromarray(draw(make_person(name), Pose(), SIDE)).save(ROOT / "samples" / file, optimize=True)


if __name__ == "__main__":
    main()
