"""Small 3D convolutions on the CPU by oneDNN.

torch picks its slow path for a single clip of fewer than about 20 thousand channel rows, which is every
small model's case: up to ten times slower (docs/measurements/cpu.json). Pointwise and very small ones are
quicker as they are. Real sizes and other devices are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

WORTH_IT = 10_000
"""Elements of the input above which oneDNN's preparation pays."""


class OneDNNConvolutions(TorchFunctionMode):
    """While entered, ``conv3d`` of float32 CPU tensors without gradients runs in oneDNN."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv3d and not kwargs and len(args) == 7 and _suits(args[0], args[1]):
            signal, weight, bias, stride, padding, dilation, groups = args
            return _convolve(signal, weight, bias, padding, stride, dilation, groups)
        return func(*args, **kwargs)


_convolve = cast(Callable[..., Tensor], getattr(torch, "mkldnn_convolution", None))


def _suits(signal: Tensor, weight: Tensor) -> bool:
    return (
        signal.numel() >= WORTH_IT
        and weight[0, 0].numel() > 1
        and signal.device.type == "cpu"
        and signal.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
    )
