"""JSON objects in files that may be missing, damaged, huge or somebody else's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from .atomic import write_atomic

MAX_BYTES = 1 << 20


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Raises ``ValueError`` for anything but a JSON object, deep nesting included."""
    try:
        value: object = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast("dict[str, Any]", value)


def read_json_object(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Raises ``OSError`` for a file that cannot be read, ``ValueError`` for one that is too large or holds
    something else."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"more than {max_bytes:,} bytes")
    return parse_json_object(data)


def read_json_or_empty(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a file, or an empty one where there is none that can be used."""
    try:
        return read_json_object(path, max_bytes)
    except (OSError, ValueError):
        return {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write atomically. Raises ``OSError``."""
    write_atomic(path, [json.dumps(value).encode()])
