"""wav2vec2 with a resampling between its halves: one feature vector a layer and video frame (facts 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import check_sizes
from ..segments import SegmentPlan


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
class Wav2Vec2Parts:
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


def split_wav2vec2(wav2vec2: nn.Module) -> Wav2Vec2Parts:
    """The parts of transformers' ``Wav2Vec2Model``, as ``build_wav2vec2`` makes it."""
    network = cast(Any, wav2vec2)
    convolutions = network.feature_extractor.conv_layers
    return Wav2Vec2Parts(
        first=convolutions[0],
        others=tuple(convolutions[1:]),
        activation=convolutions[0].activation,
        project=lambda features: network.feature_projection(features)[0],
        positions=network.encoder.pos_conv_embed,
        norm=network.encoder.layer_norm,
        layers=tuple(network.encoder.layers),
    )


NORMALISE_EPS = 1e-7

SIZES = frozenset(
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "conv_dim",
        "conv_stride",
        "conv_kernel",
        "conv_bias",
        "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups",
        "layer_norm_eps",
        "hidden_act",
        "feat_extract_activation",
    ]
)
# The base flavour Hallo3 was trained with. Nothing is masked or dropped when we listen.
_FIXED: dict[str, Any] = {
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "layerdrop": 0.0,
}


class Encoder(Protocol):
    """What follows the projection: a positional convolution, a norm, and the layers."""

    pos_conv_embed: nn.Module
    layer_norm: nn.Module
    layers: nn.ModuleList


class Wav2Vec2(Protocol):
    """The halves of a wav2vec2 that we run ourselves, as transformers' ``Wav2Vec2Model`` has them."""

    @property
    def feature_extractor(self) -> Callable[[Tensor], Tensor]:
        """Signal [1, samples] -> [1, C, t]."""
        ...

    @property
    def feature_projection(self) -> Callable[[Tensor], Sequence[Tensor]]:
        """[1, frames, C] -> hidden states [1, frames, D] first."""
        ...

    @property
    def encoder(self) -> Encoder: ...


def build_wav2vec2(config: Mapping[str, Any]) -> nn.Module:
    """transformers' ``Wav2Vec2Model`` of these sizes, without memory (on the meta device).

    Raises ``CheckpointError`` for a field that is not a size.
    """
    check_sizes(config, SIZES, "speech_encoder")
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        return Wav2Vec2Model(Wav2Vec2Config(**config, **_FIXED))


def encode_waveform(wav2vec2: Wav2Vec2, waveform: Tensor, plan: SegmentPlan, device: torch.device) -> Tensor:
    """Mono waveform [samples] at the plan's sample rate -> features [plan.padded, layers, channels] float32.

    ``device`` is where the network stands. Raises nothing of its own; the caller has checked the waveform.
    Golden ``audio_frontend_3p3s``.
    """
    signal = pad_to_segments(normalize(waveform), plan).to(device)
    stretched = stretch(wav2vec2.feature_extractor(signal[None]), plan.padded)
    hidden = wav2vec2.feature_projection(stretched)[0]
    return torch.stack([layer[0] for layer in _layers(wav2vec2.encoder, hidden)], dim=1).float().cpu()


def normalize(waveform: Tensor) -> Tensor:
    """Zero mean and unit (population) variance over the whole recording, before any padding."""
    return (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + NORMALISE_EPS)


def pad_to_segments(waveform: Tensor, plan: SegmentPlan) -> Tensor:
    """Zeros for the frames that fill the last group of ``segment.frames``; none when it is full."""
    per_frame = plan.config.sample_rate // plan.config.fps
    return F.pad(waveform, (0, (plan.padded - plan.frames) * per_frame))


def stretch(conv_features: Tensor, frames: int) -> Tensor:
    """[1, C, t at ~50 Hz] -> [1, frames, C]: linear, end points fixed."""
    return F.interpolate(conv_features, size=frames, mode="linear", align_corners=True).transpose(1, 2)


def _layers(encoder: Encoder, hidden: Tensor) -> Iterator[Tensor]:
    """Outputs of the encoder's layers; hidden state 0, before them, is not used.

    We loop ourselves: transformers 5 no longer returns hidden states from a bare encoder, and its own
    loop draws from the global generator.
    """
    hidden = encoder.layer_norm(hidden + encoder.pos_conv_embed(hidden))
    for layer in encoder.layers:
        out: Tensor | tuple[Tensor, ...] = layer(hidden)
        hidden = out if isinstance(out, Tensor) else out[0]
        yield hidden
