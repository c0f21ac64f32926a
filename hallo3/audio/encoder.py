"""wav2vec2 with a resampling between its halves: one feature vector a layer and video frame (facts 8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import check_sizes
from ..segments import SegmentPlan

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


class _Encoder(Protocol):
    pos_conv_embed: nn.Module
    layer_norm: nn.Module
    layers: nn.ModuleList


class Wav2Vec2(Protocol):
    """The halves of transformers' ``Wav2Vec2Model`` that we run ourselves."""

    feature_extractor: nn.Module
    feature_projection: nn.Module
    encoder: _Encoder


def build_wav2vec2(config: Mapping[str, Any]) -> nn.Module:
    """transformers' ``Wav2Vec2Model`` of these sizes, without memory (on the meta device).

    Raises ``CheckpointError`` for a field that is not a size.
    """
    check_sizes(config, SIZES, "speech_encoder")
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        return Wav2Vec2Model(Wav2Vec2Config(**config, **_FIXED))


def encode_waveform(wav2vec2: nn.Module, waveform: Tensor, plan: SegmentPlan) -> Tensor:
    """Mono waveform [samples] at the plan's sample rate -> features [plan.padded, layers, channels] float32.

    Raises nothing of its own; the caller has checked the waveform. Golden ``audio_frontend_3p3s``.
    """
    model = cast(Wav2Vec2, wav2vec2)
    weight = next(wav2vec2.parameters())
    signal = pad_to_segments(normalise(waveform), plan).to(weight)
    conv_features = model.feature_extractor(signal[None])
    stretched = stretch(conv_features, plan.padded)
    hidden: Tensor = model.feature_projection(stretched)[0]
    return torch.stack([layer[0] for layer in _layers(model.encoder, hidden)], dim=1).float().cpu()


def normalise(waveform: Tensor) -> Tensor:
    """Zero mean and unit (population) variance over the whole recording, before any padding."""
    return (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + NORMALISE_EPS)


def pad_to_segments(waveform: Tensor, plan: SegmentPlan) -> Tensor:
    """Zeros for the frames that fill the last group of ``segment.frames``; none when it is full."""
    per_frame = plan.config.sample_rate // plan.config.fps
    return F.pad(waveform, (0, (plan.padded - plan.frames) * per_frame))


def stretch(conv_features: Tensor, frames: int) -> Tensor:
    """[1, C, t at ~50 Hz] -> [1, frames, C]: linear, end points fixed."""
    return F.interpolate(conv_features, size=frames, mode="linear", align_corners=True).transpose(1, 2)


def _layers(encoder: _Encoder, hidden: Tensor) -> Iterator[Tensor]:
    """Outputs of the encoder's layers; hidden state 0, before them, is not used.

    We loop ourselves: transformers 5 no longer returns hidden states from a bare encoder, and its own
    loop draws from the global generator.
    """
    hidden = encoder.layer_norm(hidden + encoder.pos_conv_embed(hidden))
    for layer in encoder.layers:
        out: Tensor | tuple[Tensor, ...] = layer(hidden)
        hidden = out if isinstance(out, Tensor) else out[0]
        yield hidden
