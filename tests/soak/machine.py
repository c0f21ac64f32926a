"""Measurements of the soak tests, with the machine they were made on."""

import json
from typing import Any

import av

from benchmarks.report import describe_machine
from conftest import REPOSITORY


def keep(name: str, figures: dict[str, Any]) -> None:
    """Write figures to docs/measurements, with what they were measured on, and print them."""
    text = json.dumps({"machine": describe_machine() | {"av": av.__version__}, **figures}, indent=1)
    (REPOSITORY / "docs/measurements" / name).write_text(text + "\n", encoding="utf-8")
    print(text)
