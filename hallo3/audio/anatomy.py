"""A wav2vec2 taken apart, as far as it must be to run in pieces. Every part is called as it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn


class ConvLayer(Protocol):
    """A convolution with what follows it: signal [1, C, t] -> [1, C', t']."""

    conv: nn.Conv1d

    def __call__(self, signal: Tensor, /) -> Tensor: ...


class FirstConvLayer(ConvLayer, Protocol):
    """The first one, whose norm asks for the statistics of each channel over all time."""

    layer_norm: nn.GroupNorm


class PositionalConv(Protocol):
    """Hidden states [1, n, D] -> [1, n, D]; zeros stand before the first and after the last one."""

    conv: nn.Conv1d

    def __call__(self, hidden: Tensor, /) -> Tensor: ...


class Attention(Protocol):
    """The projections of one attention."""

    num_heads: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear


class Layer(Protocol):
    """One layer of the base flavour, normalised after its additions."""

    attention: Attention
    layer_norm: nn.Module
    feed_forward: nn.Module
    final_layer_norm: nn.Module


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The parts of one wav2vec2. ``activation`` follows the first norm; ``project`` maps conv features
    [1, n, C] to hidden states [1, n, D], and ``norm`` follows the positional convolution."""

    first: FirstConvLayer
    others: Sequence[ConvLayer]
    activation: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    positions: PositionalConv
    norm: nn.Module
    layers: Sequence[Layer]

    @property
    def conv_width(self) -> int:
        """Channels C that the convolutions put out."""
        return self.others[-1].conv.out_channels

    @property
    def width(self) -> int:
        """Channels D of the hidden states."""
        return self.positions.conv.out_channels

    @property
    def reach(self) -> tuple[int, int]:
        """Samples that one conv feature sees, and from one feature to the next."""
        sees, step = 1, 1
        for layer in (self.first, *self.others):
            sees += (layer.conv.kernel_size[0] - 1) * step
            step *= layer.conv.stride[0]
        return sees, step


def anatomy_of(wav2vec2: nn.Module) -> Anatomy:
    """The parts of transformers' ``Wav2Vec2Model``, as ``build_wav2vec2`` makes it."""
    network = cast(Any, wav2vec2)
    convolutions = network.feature_extractor.conv_layers
    return Anatomy(
        first=convolutions[0],
        others=tuple(convolutions[1:]),
        activation=convolutions[0].activation,
        project=lambda features: network.feature_projection(features)[0],
        positions=network.encoder.pos_conv_embed,
        norm=network.encoder.layer_norm,
        layers=tuple(network.encoder.layers),
    )
