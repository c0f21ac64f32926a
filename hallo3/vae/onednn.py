"""Small 3D convolutions on the CPU by oneDNN.

torch picks its slow path for a single clip of fewer than about 20 thousand channel rows, which is every
small model's case: 5 to 11 times slower on an AVX2 machine (docs/measurements/onednn.md). Real sizes and
other devices are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


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
        if func is torch.conv3d and not kwargs and len(args) == 7 and _suits(args[0]):
            signal, weight, bias, stride, padding, dilation, groups = args
            return _convolve(signal, weight, bias, padding, stride, dilation, groups)
        return func(*args, **kwargs)


_convolve = cast(Callable[..., Tensor], getattr(torch, "mkldnn_convolution", None))


def _suits(signal: Tensor) -> bool:
    return (
        signal.device.type == "cpu"
        and signal.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
    )
