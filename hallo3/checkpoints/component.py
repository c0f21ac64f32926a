"""A part of the model as it is stored: found by its names, read under ours, whatever it is stored in."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import COMPONENT_TITLES
from ..errors import CheckpointError
from ..quantization import is_finite
from ..storage.files import parse_json_object
from ..storage.hashing import raw_bytes
from .keymaps import LOOKS_LIKE, NAMINGS, OUTSIDE, Assembly, Naming
from .source import CheckpointSource, read_small_text

ENDINGS = (".weight_scale", ".scale_weight")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""ComfyUI's words for the quantisations that are read: numbers times one scale a tensor or a row."""
BLOCK_ELEMENTS = 4 << 20  # in memory at a time, where a tensor is converted
_UNUSED = (".input_scale", ".scale_input")
_FORMAT, _MARK = ".comfy_quant", "scaled_fp8"


def split_scales(own: Mapping[str, str], source: CheckpointSource) -> tuple[dict[str, str], dict[str, str]]:
    """The scale of each scaled tensor of a part, by their names in the file, and the names that remain.
    Raises ``CheckpointError`` for a scale that belongs to nothing, or another quantisation."""
    extras = (*ENDINGS, *_UNUSED, _FORMAT)
    plain = {name: key for name, key in own.items() if not name.endswith(extras) and name != _MARK}
    scales: dict[str, str] = {}
    for name, key in own.items():
        if name.endswith(_FORMAT):
            _check_format(name.removesuffix(_FORMAT), key, source)
        for ending in ENDINGS:
            if name.endswith(ending):
                weight = plain.get(name.removesuffix(ending) + ".weight")
                if weight is None:
                    raise _scale_error(name, "no weight beside it", "a weight of the same layer")
                scales[weight] = key
    return scales, plain


def _check_format(layer: str, key: str, source: CheckpointSource) -> None:
    if source.entries[key].nbytes > 4096:
        raise _scale_error(layer, "a note of many bytes", "a word for how it is quantised")
    note = raw_bytes(source.read(key).to(torch.uint8))
    try:
        word = str(parse_json_object(bytes(note))["format"])
    except (ValueError, KeyError):
        word = "a note that is none"
    if word not in FORMATS:
        raise CheckpointError(
            "The weights are quantised in a way that is not read here.",
            found=f"{layer}: {word[:40]}",
            expected=", ".join(FORMATS),
            fix="use a file of bf16, fp16 or fp8 weights; ComfyUI's nodes may read this one",
        )


def _scale_error(name: str, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "A quantised tensor's scale does not fit it.",
        found=f"{name[:120]} with {found}",
        expected=expected,
        fix="use another file of these weights",
    )


def cast_checked(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Values in another type. Raises ``CheckpointError`` for one that is too large for it."""
    converted = values.to(dtype)
    if dtype != values.dtype and dtype.is_floating_point and values.numel() and not is_finite(converted):
        raise CheckpointError(
            "A value is too large for this precision.",
            found=f"{float(values.float().abs().max()):.3g} in {name}, as {str(dtype)[6:]}",
            expected=f"values up to {torch.finfo(dtype).max:.3g}",
            fix="use fp32, or bf16 instead of fp16",
        )
    return converted


METADATA_KEY = "hallo3"  # metadata entry whose JSON says which part a file is and how large
MAX_CONFIG_BYTES = 1 << 20
OURS = {"part", "config", "trunk", "audio", "face", "vae", "segment", "defaults"}
"""Words by which a configuration of ours is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredComponent:
    """A component in a source. ``prefix`` starts all its names, ``assemblies`` say how each of our tensors is
    put together, ``scales`` which tensors of the file are quantised and by which other; ``dropped`` has
    reasons; ``own_config`` is that of the file or of one beside it, if any."""

    source: CheckpointSource
    naming: Naming
    prefix: str
    assemblies: Mapping[str, Assembly]
    scales: Mapping[str, str]
    dropped: Mapping[str, str]
    own_config: Mapping[str, Any] | None

    @property
    def part(self) -> str:
        return self.naming.part

    def dtype(self, name: str) -> torch.dtype:
        return self.source.entries[self.assemblies[name].stretches[0][0]].dtype

    @property
    def nbytes(self) -> int:
        """Of all its tensors as they are stored."""
        stretches = (stretch for each in self.assemblies.values() for stretch in each.stretches)
        return sum((stop - start) * self.source.entries[key].dtype.itemsize for key, start, stop in stretches)

    def pieces(self, name: str, most: int) -> Iterator[Tensor]:
        """A tensor's elements as they are stored, in order, flat, at most ``most`` at a time."""
        for stretch in self.assemblies[name].stretches:
            yield from self.source.pieces(*stretch, most)

    def scaled(self, name: str) -> bool:
        return self.assemblies[name].stretches[0][0] in self.scales

    def scale(self, name: str) -> Tensor | None:
        """The factor of a tensor's stored numbers: one number, one per row, or None."""
        if not self.scaled(name):
            return None
        scales: list[Tensor] = []
        for key, start, stop in self.assemblies[name].stretches:
            entry = self.source.entries[key]
            rows = entry.shape[0] if entry.shape else 1
            scale = self.source.read(self.scales[key]).float()
            if not bool(scale.isfinite().all()) or not bool(scale.any()):
                raise _scale_error(name, "zeros, NaN or infinity", "finite numbers, not all 0")
            if scale.numel() == 1:
                scales.append(scale.reshape(()))
                continue
            if scale.numel() != rows or scale.shape[0] != rows:
                raise _scale_error(name, f"{list(scale.shape)} numbers", f"1, or one for each of {rows} rows")
            per_row = entry.numel // rows
            scales.append(scale.flatten()[start // per_row : stop // per_row].reshape(-1, 1))
        return scales[0] if len(scales) == 1 or scales[0].ndim == 0 else torch.cat(scales)

    def stored(self, name: str) -> Tensor:
        shape = self.assemblies[name].shape
        return _join(self.pieces(name, max(1, math.prod(shape))), shape)

    def values(self, name: str, dtype: torch.dtype, most: int = 0) -> Iterator[Tensor]:
        """A tensor's elements in order, flat, ``most`` at a time (whole rows of those with a scale for each):
        floating point and quantised values as ``dtype``. Raises ``CheckpointError`` for one too large."""
        scale, shape = self.scale(name), self.assemblies[name].shape
        row, position, most = math.prod(shape[1:]), 0, most or BLOCK_ELEMENTS
        per_row = scale is not None and scale.ndim > 0
        for piece in self.pieces(name, max(1, most // row) * row if per_row else most):
            if scale is not None:
                rows = scale[position // row :][: len(piece) // row] if per_row else scale
                piece = (piece.float().view(-1, row if per_row else 1) * rows).flatten()
            position += len(piece)
            yield cast_checked(piece, dtype, name) if piece.is_floating_point() else piece

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor of :meth:`values`, without a second copy of the whole."""
        shape, stored = self.assemblies[name].shape, self.dtype(name)
        if not self.scaled(name) and (stored == dtype or not stored.is_floating_point):
            return self.stored(name)
        return _join(self.values(name, dtype), shape)


def _join(pieces: Iterator[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Consecutive flat pieces as one tensor in memory of its own."""
    count, position = math.prod(shape), 0
    first = next(pieces)
    if len(first) == count and first.untyped_storage().nbytes() == first.nbytes:
        return first.reshape(shape)
    whole = first.new_empty(count)
    for piece in chain((first,), pieces):
        whole[position : position + len(piece)] = piece
        position += len(piece)
    return whole.reshape(shape)


def find_components(source: CheckpointSource) -> dict[str, StoredComponent]:
    """Every part that a source holds. Raises ``CheckpointError`` for names or scales that are not read."""
    own_config = read_own_config(source.metadata, source.files[0].path)
    names = source.entries.keys()
    found: dict[str, StoredComponent] = {}
    for naming in NAMINGS:
        prefix = naming.find_prefix(names)
        if prefix is None or naming.part in found:
            continue
        if naming.part == "reference" and not prefix and (own_config or {}).get("part") != "reference":
            continue  # our reference network has plain CogVideoX's names: only its header tells
        found[naming.part] = _stored(source, naming, prefix, own_config)
    return found


def find_component(source: CheckpointSource, part: str) -> StoredComponent:
    """One part of a source. Raises ``CheckpointError`` that says what the source is instead."""
    found = find_components(source)
    if part in found:
        return found[part]
    names = list(source.entries)
    raise CheckpointError(
        "This file holds another part of the model, or another model.",
        found=f"{source.path.name}: {describe_contents(names, found)}",
        expected=COMPONENT_TITLES[part],
        fix=f"choose the file that holds it; its first tensors here are {', '.join(names[:3])[:200]}",
    )


def describe_contents(names: Collection[str], found: Collection[str]) -> str:
    if found:
        return " and ".join(COMPONENT_TITLES[part] for part in found)
    for mark, what in LOOKS_LIKE:
        if any(name.endswith(mark) for name in names):
            return f"{len(names)} tensors that look like {what}"
    return f"{len(names)} tensors of another model"


def read_own_config(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any] | None:
    """What a file's metadata say it is, else what a JSON file beside it says; None where neither does."""
    text = metadata.get(METADATA_KEY)
    if text is not None:
        return _object(text[:MAX_CONFIG_BYTES])
    for beside in (path.with_suffix(".json"), path.parent / "hallo3.json"):
        fields = _object(read_small_text(beside, MAX_CONFIG_BYTES)) if beside.is_file() else None
        if fields is not None and fields.keys() & OURS:  # other programs keep notes beside files too
            return fields if "config" in fields else {"config": fields}
        if beside.is_file() and beside.name == "hallo3.json":
            raise CheckpointError(
                "The configuration beside the weights cannot be read.",
                found=str(beside),
                expected="a JSON object with the model's sizes",
                fix="mend it, or remove it to load the released model's sizes",
            )
    return None


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        return parse_json_object(text, strict=True)
    except ValueError:
        return None


def _stored(
    source: CheckpointSource, naming: Naming, prefix: str, own_config: Mapping[str, Any] | None
) -> StoredComponent:
    own = {name.removeprefix(prefix): name for name in source.entries if name.startswith(prefix)}
    dropped = {name: why for name in own for start, why in OUTSIDE.items() if name.startswith(start)}
    scales, plain = split_scales({name: key for name, key in own.items() if name not in dropped}, source)
    ours = naming.keys.assemble({name: source.entries[key].shape for name, key in plain.items()})
    if own_config is not None and own_config.get("part", naming.part) != naming.part:
        own_config = None
    return StoredComponent(
        source=source,
        naming=naming,
        prefix=prefix,
        assemblies={
            name: Assembly(one.shape, tuple((plain[key], start, stop) for key, start, stop in one.stretches))
            for name, one in ours.items()
        },
        scales=scales,
        dropped={own[name]: why for name, why in (naming.keys.dropped(plain) | dropped).items()},
        own_config=own_config,
    )
