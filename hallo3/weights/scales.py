"""Numbers that are stored divided by a scale: which tensors, by what, and how they are multiplied back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import CheckpointError
from .source import Source

ENDINGS = (".weight_scale", ".scale_weight")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""ComfyUI's words for the quantisations that are read: numbers times one scale a tensor or a row."""
_UNUSED = (".input_scale", ".scale_input")
_FORMAT, _MARK = ".comfy_quant", "scaled_fp8"
_LONGEST_NOTE = 4096


def without_scales(own: Mapping[str, str], source: Source) -> tuple[dict[str, str], dict[str, str]]:
    """Of a part's names (each with its name in the file): the scale of each scaled tensor, both by their
    names in the file, and the names that remain.

    Raises ``CheckpointError`` for a scale that belongs to nothing, or another quantisation.
    """
    extras = (*ENDINGS, *_UNUSED, _FORMAT)
    plain = {name: key for name, key in own.items() if not name.endswith(extras) and name != _MARK}
    scales: dict[str, str] = {}
    for name, key in own.items():
        if name.endswith(_FORMAT):
            _check_format(name, key, source)
        for ending in ENDINGS:
            if name.endswith(ending):
                weight = plain.get(name.removesuffix(ending) + ".weight")
                if weight is None:
                    raise _unfit(name, "no weight beside it", "a weight of the same layer")
                scales[weight] = key
    return scales, plain


def rows_of_scale(scale: Tensor, rows: int, elements: int, start: int, stop: int, name: str) -> Tensor:
    """What elements ``start`` to ``stop`` of a tensor of so many rows and elements are multiplied by: one
    number, or one a row [rows, 1]. Raises ``CheckpointError``."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.numel() != rows or scale.shape[0] != rows:
        raise _unfit(name, f"{list(scale.shape)} numbers", f"1, or one for each of {rows} rows")
    per = elements // rows
    return scale.flatten()[start // per : stop // per].reshape(-1, 1)


def multiplied(stored: Tensor, scale: Tensor) -> Tensor:
    """A tensor's values in float32, from its stored numbers and their scale."""
    if scale.ndim:
        scale = scale.reshape(-1, *[1] * (stored.ndim - 1))
    return stored.float() * scale


def _check_format(name: str, key: str, source: Source) -> None:
    layer = name.removesuffix(_FORMAT)
    if source.entries[key].nbytes > _LONGEST_NOTE:
        raise _unfit(layer, "a note of many bytes", "a word for how it is quantised")
    letters = cast("list[int]", source.read(key).to(torch.uint8).flatten().tolist())
    try:
        fields: Any = json.loads(bytes(letters).decode("utf-8"))
        word = str(fields["format"])
    except (ValueError, TypeError, KeyError, RecursionError):
        word = "a note that is none"
    if word not in FORMATS:
        raise CheckpointError(
            "The weights are quantised in a way that is not read here.",
            found=f"{layer}: {word[:40]}",
            expected=", ".join(FORMATS),
            do="use a file of bf16, fp16 or fp8 weights; ComfyUI's nodes may read this one",
        )


def _unfit(name: str, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "A quantised tensor's scale does not fit it.",
        found=f"{name[:120]} with {found}",
        expected=expected,
        do="use another file of these weights",
    )


def narrowed(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Values in another type. Raises ``CheckpointError`` for one that is too large for it."""
    made = values.to(dtype)
    if dtype != values.dtype and dtype.is_floating_point and not bool(torch.isfinite(made).all()):
        raise CheckpointError(
            "A value is too large for this precision.",
            found=f"{float(values.float().abs().max()):.3g} in {name}, as {str(dtype)[6:]}",
            expected=f"values up to {torch.finfo(dtype).max:.3g}",
            do="use fp32, or bf16 instead of fp16",
        )
    return made
