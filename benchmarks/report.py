"""Scenarios and their results: machine, versions and command of every result, tables, and charts of bars."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from hallo3 import __version__
from hallo3.errors import hide_paths
from hallo3.media.drawing import GREY, GRID, INK, Pen
from hallo3.storage.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
RESULTS_DIR = ROOT / "benchmarks" / "results"
CPU = torch.device("cpu")
PROGRAM = "python -m benchmarks"
PRIVATE = dict.fromkeys(("--json", "--chart", "--model", "--portrait", "--speech"), "FILE")
PRIVATE["--prompt"] = "TEXT"
"""What results say in place of these options' values."""
Result = dict[str, Any]


def print_json(result: Result, _: Namespace) -> None:
    print(json.dumps(result, indent=1))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """``measure`` returns the figures, or yields them each time that they have grown, so that a run that is
    stopped has written what it measured; ``show`` prints them, ``draw`` makes a chart [3, H, W] of them.
    ``keep`` writes a result to ``benchmarks/results`` if no file is named."""

    measure: Callable[[Namespace], Result | Iterator[Result]]
    add_options: Callable[[ArgumentParser], object] = lambda _: None
    show: Callable[[Result, Namespace], None] = print_json
    draw: Callable[[Result], Tensor] | None = None
    keep: bool = False


def get_device(name: str) -> torch.device:
    """A device by name; "auto" is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def describe_machine(device: torch.device = CPU) -> dict[str, Any]:
    """Hardware and versions, without anything that identifies this one machine."""
    facts: dict[str, Any] = {
        "device": f"CPU, {platform.machine()}",
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hallo3": __version__,
    }
    if device.type == "cuda":
        properties = cast(Any, torch.cuda).get_device_properties(device)
        facts |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "device_gb": round(properties.total_memory / 1e9, 1),
            "cuda": torch.version.cuda or torch.version.hip,
            "driver": _driver_version(),
        }
    elif device.type != "cpu":
        facts["device"] = device.type
    return facts


def _driver_version() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "not known"
    words = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    output = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout.split()
    return output[0] if output else "not known"


def format_command(name: str, words: Sequence[str]) -> str:
    """The command line, with FILE in place of every path and TEXT of every prompt."""
    shown: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and word.startswith("--"):
            shown.append(f"{option}={PRIVATE.get(option, hide_paths(value))}")
        elif word.startswith("--"):
            shown.append(word)
        else:
            shown.append(PRIVATE.get(shown[-1] if shown else "", hide_paths(word)))
    return " ".join((PROGRAM, name, *shown))


def stamp(result: Result, name: str, words: Sequence[str], machine: Mapping[str, Any]) -> Result:
    """A result with its machine, versions and command first."""
    machine = {**machine, **result.get("machine", {})}
    rest = {key: value for key, value in result.items() if key not in {"machine", "command"}}
    return {"machine": machine, "command": format_command(name, words), **rest}


def write_json(result: Result, path: Path) -> None:
    """A file that is complete whenever the program is stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, [(json.dumps(result, indent=1) + "\n").encode()])


def result_path(result: Result, folder: Path = RESULTS_DIR) -> Path:
    """A file that does not exist yet, named by device and day."""
    device = re.sub(r"[^a-z0-9]+", "-", str(result["machine"]["device"]).lower()).strip("-")
    stem = f"{device}-{datetime.now(UTC):%Y-%m-%d}"
    paths = (folder / f"{stem}{end}.json" for end in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(path for path in paths if not path.exists())


def format_table(rows: Mapping[str, Mapping[str, Any]], head: str = "") -> str:
    """Rows by name, with the columns that any row has."""
    widest = sorted(rows.values(), key=len, reverse=True)
    columns = list(dict.fromkeys(column for row in widest for column in row))
    lines = [[head, *columns]]
    lines += [[name, *(_format_cell(row.get(column)) for column in columns)] for name, row in rows.items()]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    texts = (
        f"{name:{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, *cells in lines
    )
    return "\n".join(text.rstrip() for text in texts)


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


WIDTH, LEFT, RIGHT = 960, 250, 120
HEADER, TITLE, ROW, BETWEEN, FOOTER = 70, 30, 24, 20, 14
OURS, ORIGINAL = "#0072b2", "#8a8378"
"""Distinct for colour-blind readers too."""


class Panel(NamedTuple):
    """Bars with one scale, which starts at 0: values by label, and how each is written."""

    title: str
    about: str
    bars: dict[str, float]
    write: Callable[[float], str]


def draw_bars(title: str, about: str, panels: Sequence[Panel]) -> Tensor:
    """A chart [3, H, 960] in 0..1."""
    if not panels or any(not panel.bars for panel in panels):
        raise ValueError("there is nothing to draw")
    rows = sum(len(panel.bars) for panel in panels)
    height = HEADER + rows * ROW + len(panels) * (TITLE + BETWEEN) - BETWEEN + FOOTER
    pen = Pen.on_page(WIDTH, height)
    pen.text(16, 26, title, 19, INK)
    pen.text(16, 49, about, 13, GREY)
    top = HEADER
    for panel in panels:
        pen.text(16, top + 10, panel.title, 15, INK)
        pen.text(16 + pen.text_width(panel.title, 15) + 10, top + 11, panel.about, 12, GREY)
        scale = (WIDTH - LEFT - RIGHT) / (max(panel.bars.values()) or 1.0)
        first = top + TITLE
        pen.line([(LEFT, first - 4), (LEFT, first + len(panel.bars) * ROW)], GRID, 1)
        for place, (label, value) in enumerate(panel.bars.items()):
            middle, right = first + place * ROW + ROW / 2 - 2, LEFT + scale * value
            pen.text(LEFT - 10, middle, label, 13, INK, "rm")
            colour = ORIGINAL if label.startswith("original") else OURS
            pen.box((LEFT, middle - 8, max(right, LEFT + 1), middle + 8), colour)
            pen.text(right + 8, middle, panel.write(value), 13, INK)
        top += TITLE + len(panel.bars) * ROW + BETWEEN
    return pen.picture()
