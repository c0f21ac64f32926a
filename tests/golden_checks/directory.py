"""A directory of goldens: JSON files that describe safetensors files (tests/golden/README.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FORWARD, TRAJECTORY = 5e-5, 1e-4
"""Absolute, of values around 1, in float32: sums in another order. In eight numeric places of a processor
the worst was 6.2e-6 of a forward pass and 1.9e-5 of a trajectory, which adds passes up; other processors
split sums in other ways. The smallest quirk that we keep moves a result by 2.9e-4 (exact GELU for tanh). What
has no sum or function has tolerance 0 (``Report.exact``). All tolerances: tests/golden/README.md."""


@dataclass(frozen=True)
class Golden:
    """One recorded run: its description and its tensors."""

    name: str
    about: dict[str, Any]
    home: Path
    fault: str = ""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        file = self.about.get("file")
        return load_file(self.home / str(file)) if file else {}

    @property
    def listed(self) -> dict[str, Any]:
        """The description's entry for every tensor."""
        return self.about.get("tensors") or {}

    @property
    def guidance(self) -> float:
        """The guidance scale: a field, a word in the description, or the original's default."""
        match = re.search(r"guidance ([\d.]+\d)", str(self.about.get("what")))
        return float(self.about.get("guidance") or (match[1] if match else 3.5))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def names(self, prefix: str) -> list[str]:
        """Names of tensors with a prefix, without it."""
        return [name[len(prefix) :] for name in self.listed if name.startswith(prefix)]

    def has(self, *names: str) -> bool:
        return all(name in self.listed for name in names)

    def other(self, name: str) -> Golden:
        """Another golden of the same directory."""
        return read_golden(self.home / f"{name}.json")


@dataclass
class Report:
    """The errors of one golden's tensors against their tolerances."""

    golden: Golden
    rows: list[tuple[str, float, float]] = field(default_factory=list)

    def check(self, name: str, found: Tensor, tolerance: float = FORWARD) -> None:
        """Compare with the golden's own tensor."""
        self.close(name, found, self.golden[name], tolerance)

    def close(self, name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
        """Record the largest absolute difference; infinite for another shape."""
        if found.shape != expected.shape:
            name = f"{name} {list(found.shape)} != {list(expected.shape)}"
            return self.rows.append((name, float("inf"), tolerance))
        difference = (found.double() - expected.double()).abs()
        same = (found == expected) | (found.isnan() & expected.isnan())
        errors = torch.where(same, 0.0, difference.nan_to_num(float("inf"))).flatten()
        self.rows.append((name, float(errors.max()) if len(errors) else 0.0, tolerance))

    def exact(self, name: str, found: Any, expected: Any) -> None:
        """Record plain values that must be equal."""
        self.rows.append((name, 0.0 if found == expected else float("inf"), 0.0))

    @property
    def worst(self) -> tuple[str, float, float]:
        """The row with the largest error relative to its tolerance."""
        return max(self.rows, key=lambda row: row[1] / (row[2] or 1e-30))

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(error <= tolerance for _, error, tolerance in self.rows)


@dataclass(frozen=True)
class Check:
    """One kind of golden: how to recognise it, how to compare it."""

    recognise: Callable[[Golden], bool]
    compare: Callable[[Golden, Report], None]


def read_golden(path: Path) -> Golden:
    """The golden of a description; ``fault`` if it cannot be read."""
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return Golden(path.stem, {}, path.parent, f"{type(error).__name__}: {error}")
    if not isinstance(about, dict):
        return Golden(path.stem, {}, path.parent, "the description is not a JSON object")
    return Golden(path.stem, about, path.parent)


def goldens(folder: Path) -> Iterator[Golden]:
    """Every description in a directory, by name."""
    return (read_golden(path) for path in sorted(folder.glob("*.json")))


def swap(tensor: Tensor) -> Tensor:
    """(b, t, c, h, w) <-> [B, C, T, H, W]."""
    return tensor.transpose(1, 2)
