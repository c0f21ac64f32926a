"""What every result says besides its figures: the machine, the versions, the command. And tables."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from hallo3 import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CPU = torch.device("cpu")
PROGRAM = "python -m benchmarks"
PRIVATE = dict.fromkeys(("--json", "--chart", "--model", "--portrait", "--speech"), "FILE") | {
    "--prompt": "TEXT"
}
"""What is said in place of these options' values."""


def device_named(name: str) -> torch.device:
    """A device by its name; "auto" is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def machine(device: torch.device = CPU) -> dict[str, Any]:
    """What figures were measured on, without anything that tells one machine from another of its kind."""
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
        seen = cast(Any, torch.cuda).get_device_properties(device)
        facts |= {
            "device": seen.name,
            "capability": f"{seen.major}.{seen.minor}",
            "device_gb": round(seen.total_memory / 1e9, 1),
            "cuda": torch.version.cuda or torch.version.hip,
            "driver": _driver(),
        }
    elif device.type != "cpu":
        facts["device"] = device.type
    return facts


def _driver() -> str:
    """The driver's version, as its own tool says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "not known"
    words = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout.split()
    return said[0] if said else "not known"


def command(name: str, words: Sequence[str]) -> str:
    """The command line, with FILE in place of every path and TEXT of every prompt: anybody may see it."""
    shown: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and word.startswith("--"):
            shown.append(f"{option}={PRIVATE.get(option, pathless(value))}")
        elif word.startswith("--"):
            shown.append(word)
        else:
            shown.append(PRIVATE.get(shown[-1] if shown else "", pathless(word)))
    return " ".join((PROGRAM, name, *shown))


def pathless(text: str) -> str:
    """A text with FILE in place of whatever may be a path."""
    return re.sub(r"\S*[/\\~]\S*", "FILE", text)


def stamped(
    found: Mapping[str, Any], name: str, words: Sequence[str], device: torch.device = CPU
) -> dict[str, Any]:
    """A result that says what it was measured on, with which versions, and by which command."""
    known: dict[str, Any] = found.get("machine", {})
    facts = machine(device) | known
    rest = {key: value for key, value in found.items() if key not in {"machine", "command"}}
    return {"machine": facts, "command": found.get("command", command(name, words)), **rest}


def write_json(found: Mapping[str, Any], path: Path) -> None:
    """A result as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def result_path(found: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Where a result belongs that has no other place: by its device and the day; nothing is written over."""
    device = re.sub(r"[^a-z0-9]+", "-", str(found["machine"]["device"]).lower()).strip("-")
    stem = f"{device}-{datetime.now(UTC):%Y-%m-%d}"
    names = (f"{stem}.json", *(f"{stem}-{number}.json" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())


def table(rows: Mapping[str, Mapping[str, Any]], head: str = "") -> str:
    """Rows by name under the columns that any of them has; what a row lacks is left empty."""
    widest = sorted(rows.values(), key=len, reverse=True)
    columns = list(dict.fromkeys(column for row in widest for column in row))
    cells = {name: [_cell(row.get(column)) for column in columns] for name, row in rows.items()}
    widths = [
        max(len(column), *(len(row[place]) for row in cells.values())) for place, column in enumerate(columns)
    ]
    first = max(len(head), *(len(name) for name in cells))
    lines = [f"{head:{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(columns, widths, strict=True))]
    for name, row in cells.items():
        lines.append(f"{name:{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(row, widths, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
