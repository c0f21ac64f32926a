"""Measurements of the soak tests, with the machine they were made on."""

import json
from typing import Any

import av

from benchmarks.report import describe_machine
from conftest import REPOSITORY


def keep(name: str, figures: dict[str, Any], section: str = "") -> None:
    """Write figures to docs/measurements, beside other sections, with the machine, and print them."""
    path = REPOSITORY / "docs/measurements" / name
    if section:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        figures = known | {section: figures}
    text = json.dumps({**figures, "machine": describe_machine() | {"av": av.__version__}}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
