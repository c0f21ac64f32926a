"""wav2vec2-base: its modules, which ``encoder.py`` calls one by one.

transformers' ``Wav2Vec2Model`` has the same parameters, and a test holds these modules to it. Its forward
pass cannot be used: it returns one feature vector per 20 ms, and Hallo3 resamples between the convolutions
and the transformer layers to one per video frame (facts 8). Importing it for its modules alone takes twice
the time of everything else that a start imports. A forward pass that takes a step between the halves, in a
library that imports in 0.1 s, would replace this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import check_sizes

BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    **dict.fromkeys(("hidden_act", "feat_extract_activation"), "gelu"),
    "layer_norm_eps": 1e-5,
    "conv_dim": [512] * 7,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}
"""Sizes of wav2vec2-base-960h, which Hallo3 was trained with, and every field that a file may decide."""
FIXED = {"conv_stride"}
"""Of those, what no weight's shape bounds: one feature in 320 samples."""


class Convolution(nn.Module):
    """Without padding; the first one normalizes each channel over all time."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, *, bias: bool, first: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=bias)
        self.layer_norm = nn.GroupNorm(outputs, outputs) if first else nn.Identity()

    def forward(self, signal: Tensor) -> Tensor:
        return F.gelu(self.layer_norm(self.conv(signal)))


class FeatureExtractor(nn.Module):
    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        widths = sizes["conv_dim"]
        rows = zip([1, *widths[:-1]], widths, sizes["conv_kernel"], sizes["conv_stride"], strict=True)
        self.conv_layers = nn.ModuleList(
            Convolution(*row, bias=sizes["conv_bias"], first=not n) for n, row in enumerate(rows)
        )

    def forward(self, signal: Tensor) -> Tensor:
        """[B, samples] -> [B, C, t]"""
        hidden = signal[:, None]
        for layer in self.conv_layers:
            hidden = layer(hidden)
        return hidden


class FeatureProjection(nn.Module):
    def __init__(self, inputs: int, width: int, eps: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(inputs, eps)
        self.projection = nn.Linear(inputs, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.layer_norm(features))


class NormalizedConvolution(nn.Module):
    """Direction and length of the kernel at each place are separate, under the names that torch's
    ``weight_norm`` gives them. That imports torch's compiler, 2 s, when it is applied on the meta device."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"{groups} groups do not divide {width} channels")
        self.out_channels, self.kernel_size, self.groups = width, (kernel,), groups
        self.bias = nn.Parameter(torch.empty(width))
        shapes = {"original0": (1, 1, kernel), "original1": (width, width // groups, kernel)}
        weight = nn.ParameterDict({name: torch.empty(shape) for name, shape in shapes.items()})
        self.parametrizations = nn.ModuleDict({"weight": weight})

    def forward(self, hidden: Tensor) -> Tensor:
        length, direction = self.parametrizations["weight"].parameters()
        weight: Tensor = cast(Any, torch)._weight_norm(direction, length, 2)  # as torch does
        return F.conv1d(hidden, weight, self.bias, padding=self.kernel_size[0] // 2, groups=self.groups)


class PositionalConvolution(nn.Module):
    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = NormalizedConvolution(width, kernel, groups)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, n, D] -> [B, n, D]: of an even kernel without the frame that the padding adds."""
        return F.gelu(self.conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} attention heads do not divide {width} channels")
        self.num_heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        layers = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (layer(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in layers)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.intermediate_dense, self.output_dense = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output_dense(F.gelu(self.intermediate_dense(hidden)))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.layer_norm = nn.LayerNorm(width, eps)
        self.feed_forward = FeedForward(width, inner)
        self.final_layer_norm = nn.LayerNorm(width, eps)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.layer_norm(hidden + self.attention(hidden))
        return self.final_layer_norm(hidden + self.feed_forward(hidden))


class Encoder(nn.Module):
    """``encoder.run_layers`` is its forward pass."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = sizes["hidden_size"], sizes["layer_norm_eps"]
        positions = sizes["num_conv_pos_embeddings"], sizes["num_conv_pos_embedding_groups"]
        self.pos_conv_embed = PositionalConvolution(width, *positions)
        self.layer_norm = nn.LayerNorm(width, eps)
        shape = width, sizes["num_attention_heads"], sizes["intermediate_size"], eps
        self.layers = nn.ModuleList(Layer(*shape) for _ in range(sizes["num_hidden_layers"]))


class Wav2Vec2(nn.Module):
    """Under transformers' names, without dropout and masks."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = sizes["hidden_size"], sizes["layer_norm_eps"]
        self.feature_extractor = FeatureExtractor(sizes)
        self.feature_projection = FeatureProjection(sizes["conv_dim"][-1], width, eps)
        self.encoder = Encoder(sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wav2Vec2Parts:
    """The modules of a wav2vec2, ours or ComfyUI's, under transformers' names.

    ``extract`` maps a signal [1, samples] to convolution features [1, C, t] and consists of ``convolutions``:
    each has ``conv``, the first also ``layer_norm`` over all time, and GELU follows. ``project`` maps
    [1, n, C] to hidden states [1, n, D]; ``norm`` follows the positional convolution ``positions``.
    """

    extract: Callable[[Tensor], Tensor]
    convolutions: Sequence[Any]
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
    network = cast(Wav2Vec2, wav2vec2)
    return Wav2Vec2Parts(
        extract=network.feature_extractor,
        convolutions=tuple(network.feature_extractor.conv_layers),
        project=network.feature_projection,
        positions=network.encoder.pos_conv_embed,
        norm=network.encoder.layer_norm,
        layers=tuple(network.encoder.layers),
    )


def build_wav2vec2(config: Mapping[str, Any]) -> Wav2Vec2:
    """Without memory (on the meta device); what a configuration does not say is wav2vec2-base's. Raises
    ``CheckpointError`` for a field that it should not have, or of another kind, and ``ValueError`` for sizes
    that contradict each other."""
    check_sizes(config, BASE, "speech_encoder", FIXED)
    with torch.device("meta"):
        return Wav2Vec2(BASE | dict(config))
