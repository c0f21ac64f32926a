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
from .source import Source

METADATA_KEY = "hallo3"
"""Metadata entry whose JSON says which part a file is and how large."""
LARGEST_CONFIG = 1 << 20

SCALES = (".weight_scale", ".scale_weight")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""ComfyUI's words for the quantisations that are read: numbers times one scale a tensor or a row."""
_UNUSED = (".input_scale", ".scale_input")
_FORMAT, _MARK = ".comfy_quant", "scaled_fp8"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part in a source.

    ``prefix`` is what its names begin with, ``made`` what each of our tensors is made of, ``scales`` which of
    them are quantised and by which tensor, ``dropped`` what is not needed and why, ``said`` what the file or
    one beside it says of itself, if anything.
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

    def scale(self, name: str) -> Tensor | None:
        """What a quantised tensor's numbers are to be multiplied by."""
        key = self.scales.get(name)
        return None if key is None else self.source.read(key).float()

    def stored(self, name: str) -> Tensor:
        """A tensor as it is stored."""
        made = self.made[name]
        pieces = list(self.pieces(name, max(1, sum(stop - start for _, start, stop in made.stretches))))
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(made.shape)

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor's values; floating point and quantised ones as ``dtype``."""
        stored, scale = self.stored(name), self.scale(name)
        if scale is not None:
            return (stored.float() * _broadcast(scale, stored, name)).to(dtype)
        return stored.to(dtype) if stored.is_floating_point() else stored


def find_parts(source: Source) -> dict[str, StoredPart]:
    """Every part that a source holds. Raises ``CheckpointError`` for names or scales that are not read."""
    said = _said(source)
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
        return _object(text)
    for beside in (path.with_suffix(".json"), path.parent / "hallo3.json"):
        if beside.is_file() and beside.stat().st_size <= LARGEST_CONFIG:
            fields = _object(beside.read_text(encoding="utf-8", errors="replace"))
            if fields is None:
                raise CheckpointError(
                    "The configuration beside the weights cannot be read.",
                    found=str(beside),
                    expected="a JSON object with the model's sizes",
                    do="mend it, or remove it to load the released model's sizes",
                )
            return fields if "config" in fields else {"config": fields}
    return None


def _said(source: Source) -> Mapping[str, Any] | None:
    return said_of_itself(source.metadata, source.files[0].path)


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None


def _stored(source: Source, naming: Naming, prefix: str, said: Mapping[str, Any] | None) -> StoredPart:
    own = {name.removeprefix(prefix): name for name in source.entries if name.startswith(prefix)}
    dropped = {name: why for name in own for start, why in OUTSIDE.items() if name.startswith(start)}
    scales, plain = _without_scales({name: key for name, key in own.items() if name not in dropped}, source)
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
        scales={name: scales[name] for name in made if name in scales},
        dropped={own[name]: why for name, why in (naming.keys.dropped(plain) | dropped).items()},
        said=mine,
    )


def _without_scales(own: dict[str, str], source: Source) -> tuple[dict[str, str], dict[str, str]]:
    """Scales by the weight they belong to, and what remains of the names."""
    scales = {
        name.removesuffix(ending) + ".weight": key
        for name, key in own.items()
        for ending in SCALES
        if name.endswith(ending)
    }
    for name, key in own.items():
        if name.endswith(_FORMAT):
            _check_format(name.removesuffix(_FORMAT), source.read(key))
    extras = (*SCALES, *_UNUSED, _FORMAT)
    plain = {name: key for name, key in own.items() if not name.endswith(extras) and name != _MARK}
    return scales, plain


def _check_format(layer: str, raw: Tensor) -> None:
    fields = (
        _object(
            bytes(cast("list[int]", raw.to(torch.uint8).flatten()[:1000].tolist())).decode("utf-8", "replace")
        )
        or {}
    )
    if fields.get("format") not in FORMATS:
        raise CheckpointError(
            "The weights are quantised in a way that is not read here.",
            found=f"{layer}: {str(fields.get('format'))[:40]}",
            expected=", ".join(FORMATS),
            do="use a file of bf16, fp16 or fp8 weights; ComfyUI's nodes may read this one",
        )


def _broadcast(scale: Tensor, stored: Tensor, name: str) -> Tensor:
    rows = len(stored) if stored.ndim else 1
    if scale.numel() not in (1, rows):
        raise CheckpointError(
            "A quantised tensor's scale does not fit it.",
            found=f"{name} {list(stored.shape)} with a scale of {list(scale.shape)}",
            expected=f"1 or {rows} numbers",
            do="use another file of these weights",
        )
    return scale.reshape(-1, *[1] * (stored.ndim - 1)) if scale.numel() > 1 else scale.reshape(())
