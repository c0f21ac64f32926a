"""A part of the model as it is stored: found by its names, read under ours, whatever it is stored in."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..parts import ARE
from .keymap import Assembly
from .namings import LOOKS_LIKE, NAMINGS, OUTSIDE, Naming
from .scales import multiplied, narrowed, rows_of_scale, without_scales
from .source import Source, small_text

METADATA_KEY = "hallo3"
"""Metadata entry whose JSON says which part a file is and how large."""
LARGEST_CONFIG = 1 << 20
OURS = {"part", "config", "trunk", "audio", "face", "vae", "segment", "defaults"}
"""Words by which a configuration of ours is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part in a source.

    ``prefix`` is what its names begin with, ``made`` what each of our tensors is made of, ``scales`` which
    tensors of the file are quantised and by which other, ``dropped`` what is not needed and why, ``said``
    what the file or one beside it says of itself, if anything.
    """

    source: Source
    naming: Naming
    prefix: str
    made: Mapping[str, Assembly]
    scales: Mapping[str, str]
    dropped: Mapping[str, str]
    said: Mapping[str, Any] | None

    @property
    def part(self) -> str:
        """Which of the five networks this is."""
        return self.naming.part

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Our tensors' shapes, as the file gives them."""
        return {name: made.shape for name, made in self.made.items()}

    def dtype(self, name: str) -> torch.dtype:
        """The type in which a tensor of ours is stored."""
        return self.source.entries[self.made[name].stretches[0][0]].dtype

    def pieces(self, name: str, most: int) -> Iterator[Tensor]:
        """A tensor's elements as they are stored, in order, flat, at most ``most`` at a time."""
        for stretch in self.made[name].stretches:
            yield from self.source.pieces(*stretch, most)

    def scaled(self, name: str) -> bool:
        """Whether a tensor is stored divided by a scale."""
        return self.made[name].stretches[0][0] in self.scales

    def scale(self, name: str) -> Tensor | None:
        """What a tensor's stored numbers are to be multiplied by: one number, one a row, or None."""
        if not self.scaled(name):
            return None
        found: list[Tensor] = []
        for key, start, stop in self.made[name].stretches:
            entry = self.source.entries[key]
            rows = entry.shape[0] if entry.shape else 1
            scale = self.source.read(self.scales[key]).float()
            found.append(rows_of_scale(scale, rows, entry.numel, start, stop, name))
        return found[0] if len(found) == 1 or found[0].ndim == 0 else torch.cat(found)

    def stored(self, name: str) -> Tensor:
        """A tensor as it is stored."""
        made = self.made[name]
        pieces = list(self.pieces(name, max(1, sum(stop - start for _, start, stop in made.stretches))))
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(made.shape)

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor's values; floating point and quantised ones as ``dtype``. Raises ``CheckpointError`` for a
        value that is too large for it."""
        stored, scale = self.stored(name), self.scale(name)
        if scale is not None:
            return narrowed(multiplied(stored, scale), dtype, name)
        return narrowed(stored, dtype, name) if stored.is_floating_point() else stored


def find_parts(source: Source) -> dict[str, StoredPart]:
    """Every part that a source holds. Raises ``CheckpointError`` for names or scales that are not read."""
    said = said_of_itself(source.metadata, source.files[0].path)
    names = source.entries.keys()
    found: dict[str, StoredPart] = {}
    for naming in NAMINGS:
        prefix = naming.prefix_in(names)
        if prefix is None or naming.part in found:
            continue
        if naming.part == "reference" and not prefix and (said or {}).get("part") != "reference":
            continue  # our reference network has plain CogVideoX's names: only its header tells
        found[naming.part] = _stored(source, naming, prefix, said)
    return found


def find_part(source: Source, part: str) -> StoredPart:
    """One part of a source. Raises ``CheckpointError`` that says what the source is instead."""
    found = find_parts(source)
    if part in found:
        return found[part]
    names = list(source.entries)
    raise CheckpointError(
        "This file holds another part of the model, or another model.",
        found=f"{source.path.name}: {looks_like(names, found)}",
        expected=ARE[part],
        do=f"choose the file that holds it; its first tensors here are {', '.join(names[:3])[:200]}",
    )


def looks_like(names: Collection[str], found: Collection[str]) -> str:
    """What a file's tensors seem to be."""
    if found:
        return " and ".join(ARE[part] for part in found)
    for mark, what in LOOKS_LIKE:
        if any(name.endswith(mark) for name in names):
            return f"{len(names)} tensors that look like {what}"
    return f"{len(names)} tensors of another model"


def said_of_itself(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any] | None:
    """What a file's metadata say it is, else what a JSON file beside it says; None where neither does."""
    text = metadata.get(METADATA_KEY)
    if text is not None:
        return _object(text[:LARGEST_CONFIG])
    for beside in (path.with_suffix(".json"), path.parent / "hallo3.json"):
        fields = _object(small_text(beside, LARGEST_CONFIG)) if beside.is_file() else None
        if fields is not None and fields.keys() & OURS:  # other programs keep notes beside files too
            return fields if "config" in fields else {"config": fields}
        if beside.is_file() and beside.name == "hallo3.json":
            raise CheckpointError(
                "The configuration beside the weights cannot be read.",
                found=str(beside),
                expected="a JSON object with the model's sizes",
                do="mend it, or remove it to load the released model's sizes",
            )
    return None


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None


def _stored(source: Source, naming: Naming, prefix: str, said: Mapping[str, Any] | None) -> StoredPart:
    own = {name.removeprefix(prefix): name for name in source.entries if name.startswith(prefix)}
    dropped = {name: why for name in own for start, why in OUTSIDE.items() if name.startswith(start)}
    scales, plain = without_scales({name: key for name, key in own.items() if name not in dropped}, source)
    made = naming.keys.assemble({name: source.entries[key].shape for name, key in plain.items()})
    mine = said if said is not None and said.get("part", naming.part) == naming.part else None
    return StoredPart(
        source=source,
        naming=naming,
        prefix=prefix,
        made={
            name: Assembly(one.shape, tuple((plain[key], start, stop) for key, start, stop in one.stretches))
            for name, one in made.items()
        },
        scales=scales,
        dropped={own[name]: why for name, why in (naming.keys.dropped(plain) | dropped).items()},
        said=mine,
    )
