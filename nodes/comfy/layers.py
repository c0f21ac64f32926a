"""Layers as ComfyUI computes with them: their weights, and the kernels that read those directly."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn

from ...hallo3.model.embeddings import KERNEL_ROWS, convolve_pairs, pair_frames
from ...hallo3.model.kernels.eager import PLAIN
from ...hallo3.model.kernels.fused import Fused
from ...hallo3.model.kernels.select import choose_kernels
from ...hallo3.model.layers import is_plain


@contextmanager
def parameters(layer: nn.Module, like: Tensor) -> Generator[tuple[Tensor, Any]]:
    """A layer's weight and bias (or None), as ComfyUI computes with them: on the device, cast, with LoRA.
    Its dynamic memory may evict them after the context. Checks for the user's interruption."""
    comfy.ops.run_every_op()
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


class NativeKernels(Fused):
    """The fused kernels where they run and where ComfyUI would compute with a layer's weights as they are."""

    def __init__(self) -> None:
        super().__init__(parameters)

    def fits(self, x: Tensor, layer: nn.Module | None = None) -> bool:
        """Not while another node compiles the network, nor for a layer that LoRA or another pack has changed,
        nor for quantised ones."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or not can_fuse(x.device, x.dtype):
            return False
        if layer is None:
            return True
        return _is_unchanged(layer) and is_plain(layer) and not vars(layer)["_forward_pre_hooks"]


@cache
def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused kernels pass their test on a device; says why not."""
    choice = choose_kernels("auto", device, dtype)
    logging.info("Hallo3: %s kernels%s", choice.kernels.name, choice.reason and f": {choice.reason}")
    return choice.kernels is not PLAIN


def _is_unchanged(layer: nn.Module) -> bool:
    """Whether ComfyUI itself would compute with a layer's weights as they are."""
    plain = comfy.ops.disable_weight_init
    kinds: tuple[Any, ...] = plain.Linear, plain.LayerNorm, plain.Conv1d
    methods = "forward", "forward_comfy_cast_weights"
    if not any(all(getattr(type(layer), m, None) is getattr(kind, m) for m in methods) for kind in kinds):
        return False
    names = (f"{name}_{each}" for name in ("weight", "bias") for each in ("function", "lowvram_function"))
    return not any(getattr(layer, name, None) for name in names)


def convolve_in_pieces(layer: nn.Module, x: Tensor) -> Tensor:
    """The audio projection's convolution, [B, C, 2T] -> [B, D, T]. Its kernel (2.4 GB in the released model)
    stays where it is: rows are sent to the device, never the whole."""
    known: Any = layer
    if not _is_unchanged(layer) or len(known.weight) <= KERNEL_ROWS:
        return type(known).forward(layer, x)

    def send(rows: Tensor) -> Tensor:
        comfy.ops.run_every_op()
        return rows.to(x.device).to(x.dtype)

    parts = zip(*(torch.split(side, KERNEL_ROWS) for side in (known.weight, known.bias)), strict=True)
    pieces = ((send(weight), send(bias)) for weight, bias in parts)
    return convolve_pairs(pair_frames(x.transpose(1, 2)), pieces).transpose(1, 2)
