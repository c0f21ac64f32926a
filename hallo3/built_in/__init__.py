"""The model that comes with the package: small, trained on drawn faces, used where no other is asked for."""

from __future__ import annotations

from pathlib import Path

NAME = "built-in"
"""What a user writes for it where a model is asked for."""
FOLDER = Path(__file__).resolve().parent
"""A model folder like any other."""


def find_samples() -> Path:
    """The folder of sample portraits and speech: in an installed package, or beside the package."""
    installed = FOLDER.parent / "samples"
    return installed if installed.is_dir() else FOLDER.parents[1] / "samples"
