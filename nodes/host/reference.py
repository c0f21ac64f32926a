"""The reference network, brought to the device for one look."""

from __future__ import annotations

import math

import comfy.model_management as mm
from torch import Tensor

from .loading import ReferenceSocket


def features_of(socket: ReferenceSocket, latents: Tensor) -> tuple[Tensor, ...]:
    """Scaled latents [1, C, 1, h, w] -> a feature tensor [1, R, D] a block, off the device."""
    trunk = socket.config.trunk
    tokens = trunk.text_tokens + math.prod(latents.shape[-2:]) // 4
    needed = 16 * tokens * trunk.width * mm.dtype_size(socket.dtype)
    mm.load_models_gpu([socket.patcher], memory_required=needed)
    home = mm.intermediate_device()
    features = socket.patcher.model.features(latents.to(socket.patcher.load_device, socket.dtype))
    return tuple(feature.to(home) for feature in features)
