"""transformers' wav2vec2: its sizes, and its modules one by one, which ``encoder.py`` calls itself.

The library's own forward pass returns one feature vector per 20 ms; Hallo3 resamples between the convolutions
and the transformer layers to one per video frame (facts 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import SPEECH_ENCODERS, check_sizes
from ..errors import check_docstrings

SIZES: dict[str, Any] = {
    **SPEECH_ENCODERS["nano"],
    **dict.fromkeys(("hidden_act", "feat_extract_activation"), "gelu"),
    "conv_bias": False,
    "layer_norm_eps": 1e-5,
}
"""A value of the right kind for every field that a file may decide."""
FIXED = {"conv_stride"}
"""Of those, what no weight's shape bounds: one feature in 320 samples."""
# The base variant that Hallo3 was trained with; nothing is masked or dropped.
_BASE: dict[str, Any] = {"do_stable_layer_norm": False, "feat_extract_norm": "group"}
_UNDROPPED: dict[str, Any] = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wav2Vec2Parts:
    """The modules of a wav2vec2, ours or ComfyUI's, under transformers' names.

    ``extract`` maps a signal [1, samples] to convolution features [1, C, t] and consists of ``convolutions``:
    each has ``conv``, the first also ``layer_norm`` over all time, followed by ``activation``. ``project``
    maps [1, n, C] to hidden states [1, n, D]; ``norm`` follows the positional convolution ``positions``.
    """

    extract: Callable[[Tensor], Tensor]
    convolutions: Sequence[Any]
    activation: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    positions: Any
    norm: Callable[[Tensor], Tensor]
    layers: Sequence[Any]

    @property
    def width(self) -> int:
        """D"""
        return self.positions.conv.out_channels

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Samples per convolution feature, and from one feature to the next."""
        field, stride = 1, 1
        for layer in self.convolutions:
            field += (layer.conv.kernel_size[0] - 1) * stride
            stride *= layer.conv.stride[0]
        return field, stride


def split_wav2vec2(wav2vec2: nn.Module) -> Wav2Vec2Parts:
    """The parts of transformers' ``Wav2Vec2Model``."""
    network = cast(Any, wav2vec2)
    convolutions = network.feature_extractor.conv_layers
    return Wav2Vec2Parts(
        extract=network.feature_extractor,
        convolutions=tuple(convolutions),
        activation=convolutions[0].activation,
        project=lambda features: network.feature_projection(features)[0],
        positions=network.encoder.pos_conv_embed,
        norm=network.encoder.layer_norm,
        layers=tuple(network.encoder.layers),
    )


def build_wav2vec2(config: Mapping[str, Any]) -> nn.Module:
    """transformers' ``Wav2Vec2Model`` of these sizes, without memory (on the meta device). Raises
    ``CheckpointError`` for a field that it should not have, or of another kind."""
    check_sizes(config, SIZES, "speech_encoder", FIXED)
    check_docstrings()
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        return Wav2Vec2Model(Wav2Vec2Config(**config, **_BASE, **_UNDROPPED))
