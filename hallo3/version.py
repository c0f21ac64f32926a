"""The version, which is written in ``pyproject.toml`` and nowhere else."""

import tomllib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path


def read_version() -> str:
    """Of the repository around this package, or else of the installed package."""
    with suppress(OSError, ValueError, KeyError):
        path = Path(__file__).resolve().parents[1] / "pyproject.toml"
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        if project["name"] == "hallo3":  # a wheel of another project may leave its own there
            return project["version"]
    return version("hallo3")


VERSION = read_version()
