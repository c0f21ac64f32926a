"""What computations hold at once besides weights and conditions, in bytes, as closed formulas of the shapes.

Each is an upper bound, a few hundredths above what is counted on the meta device
(tests/offload/test_activations.py). What a decode holds is told by ``vae/decode_memory.py``. "Tokens"
are all of a segment, text and video, in the type that flows: 109 MB at full size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Hallo3Config
from ..geometry import LatentShape
from ..quantization.precision import Precision
from ..speech.encoder import CONV_FEATURES

FLOAT = 4
LATENTS_AT_ONCE = 10
"""Latents in float32 that a sampler holds: noisy ones, estimates of two steps, noise, velocities of two
branches."""


def sampling(config: Hallo3Config, precision: Precision, *, passes: str, branches: int, fused: bool) -> int:
    """A sampling step. Batched, all is there twice, and a block's keys and values of both branches' audio
    side by side; abreast, the tokens of the branch that waits."""
    trunk, latent, number = config.trunk, config.segment.shape.latent, precision.compute.itemsize
    tokens = (trunk.text_tokens + latent.tokens) * trunk.width * number
    held = 1.03 * forward(config, tokens, fused=fused) + _products(config, precision, tokens)
    if branches == 2 and passes == "batched":
        held = 2 * held + branches * audio_kv(config, number) / trunk.layers
    elif branches == 2 and passes == "layer-major":
        held += tokens
    return round(held) + LATENTS_AT_ONCE * latents(config) * FLOAT


def forward(config: Hallo3Config, tokens: int, *, fused: bool) -> int:
    """A pass over so many bytes of tokens: what came in, what was made of it, its norm, the feed-forward's
    inner numbers and its result; without fused kernels the rotation of queries and keys needs more."""
    passages = 4.0 + config.trunk.feed_forward_ratio
    return round(max(passages, 7.2 if fused else 10.3) * tokens)


def _products(config: Hallo3Config, precision: Precision, tokens: int) -> int:
    """fp8 weights scaled back, beside a pass over tokens."""
    if not precision.fp8_weights:
        return 0
    matrix = config.trunk.feed_forward_ratio * config.trunk.width**2
    return max(matrix * precision.compute.itemsize, 2 * matrix * FLOAT - tokens)


def projecting(config: Hallo3Config, precision: Precision, inputs: int) -> int:
    """A projection from so many channels to keys or values, where its weight is multiplied back."""
    return 2 * inputs * config.trunk.width * FLOAT if precision.fp8_weights else 0


def reading(config: Hallo3Config, precision: Precision, *, fused: bool) -> int:
    """The reference network's pass over one latent frame."""
    number, rows = precision.compute.itemsize, config.segment.shape.latent.tokens_per_frame
    tokens = (config.trunk.text_tokens + rows) * config.trunk.width * number
    passed = forward(config, tokens, fused=fused) + _products(config, precision, tokens)
    return passed + tables(config, number, 1)


def hearing(config: Hallo3Config, number: int) -> int:
    """The audio projection of a segment: its windows, and what becomes of them before and after a
    convolution."""
    audio, frames = config.audio, config.segment.frames
    windows = frames * audio.window * audio.layers * audio.channels
    return round((windows + 2.2 * frames * audio.tokens * audio.token_dim) * number)


def encoding(config: Hallo3Config, frames: int, number: int) -> int:
    """The VAE's encoder on so many frames, in its widest numbers at full extent."""
    shape = config.segment.shape
    row = shape.height * shape.width * config.vae.block_out_channels[0] * number
    return round((17.2 + 4.3 * frames) * row)


def prompting(text: Mapping[str, Any], config: Hallo3Config, number: int) -> int:
    """T5's encoder on a prompt: its feed-forward, or its scores."""
    tokens = config.trunk.text_tokens
    inner, heads = int(text.get("d_ff", 10240)), int(text.get("num_heads", 64))
    return round(max(7.3 * tokens * inner, 4.0 * heads * tokens * tokens) * number)


def listening() -> int:
    """wav2vec2 over a piece of a recording, and one head's keys and values of an hour of it; streamed, as the
    command does it."""
    first = CONV_FEATURES * 64 * 512
    return round(3.1 * first * FLOAT) + 50_000_000


def latents(config: Hallo3Config) -> int:
    """Numbers of a segment's latents."""
    latent: LatentShape = config.segment.shape.latent
    return config.trunk.latent_channels * latent.frames * latent.height * latent.width


def reference_kv(config: Hallo3Config, number: int) -> int:
    """The reference tokens' keys and values of all blocks."""
    return 2 * features(config, number)


def features(config: Hallo3Config, number: int) -> int:
    """The reference features of all blocks."""
    trunk = config.trunk
    return trunk.layers * config.segment.shape.latent.tokens_per_frame * trunk.width * number


def audio_kv(config: Hallo3Config, number: int) -> int:
    """One branch's keys and values of the audio tokens, of all blocks."""
    trunk, frames = config.trunk, config.segment.shape.latent.frames
    return 2 * trunk.layers * frames * config.audio.tokens * trunk.width * number


def tables(config: Hallo3Config, number: int, steps: int) -> int:
    """What so many timesteps do to every block and to the head."""
    trunk = config.trunk
    return steps * (trunk.layers * 12 + 2) * trunk.width * number


def folded(config: Hallo3Config, number: int) -> int:
    """The face's keys and values, behind the output layer, and that layer's bias, of all blocks."""
    trunk, face = config.trunk, config.face
    each = face.tokens * trunk.width + trunk.heads * face.tokens * trunk.width + trunk.width
    return trunk.layers * each * number


def around(config: Hallo3Config, number: int) -> int:
    """Projected text of both branches, and the rotary tables."""
    trunk = config.trunk
    rows = trunk.text_tokens + config.segment.shape.latent.tokens
    return (2 * trunk.text_tokens * trunk.width + 2 * rows * trunk.head_dim) * number
