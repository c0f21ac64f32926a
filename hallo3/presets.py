"""The named sizes: the real model, a golden-like small one, and one for very long tests."""

from __future__ import annotations

from typing import Any

from .config import (
    AudioConfig,
    Defaults,
    FaceConfig,
    Hallo3Config,
    SegmentConfig,
    TrunkConfig,
    VAEConfig,
)

HALLO3 = Hallo3Config()

TINY = Hallo3Config(
    name="tiny",
    trunk=TrunkConfig(layers=3, heads=4, head_dim=16, time_dim=32, text_dim=40, text_tokens=32),
    audio=AudioConfig(layers=3, channels=32, hidden=24, tokens=4, token_dim=12),
    face=FaceConfig(space="thumbnail", token_dim=20),
    vae=VAEConfig(block_out_channels=(16, 32, 16, 16), layers_per_block=1, norm_num_groups=8),
    segment=SegmentConfig(height=64, width=96),
    defaults=Defaults(steps=8),
)

NANO = Hallo3Config(
    name="nano",
    trunk=TrunkConfig(layers=2, heads=2, head_dim=16, time_dim=16, text_dim=16, text_tokens=8),
    audio=AudioConfig(layers=2, channels=16, hidden=8, tokens=2, token_dim=8),
    face=FaceConfig(space="thumbnail", embedding_dim=48, tokens=2, token_dim=8),
    vae=VAEConfig(block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
    segment=SegmentConfig(frames=17, height=32, width=32),
    defaults=Defaults(steps=2),
)

BUILT_IN = Hallo3Config(
    name="built-in",
    trunk=TrunkConfig(layers=6, heads=4, head_dim=32, time_dim=64, text_dim=32, text_tokens=16),
    audio=AudioConfig(layers=3, channels=48, hidden=128, tokens=4, token_dim=48),
    face=FaceConfig(space="drawn-face", tokens=2, token_dim=64),
    vae=VAEConfig(
        block_out_channels=(16, 32, 32, 64), layers_per_block=1, norm_num_groups=4, scaling_factor=2.6
    ),
    segment=SegmentConfig(frames=33, height=64, width=64),
    defaults=Defaults(steps=1, guidance_scale=1.0, sampler="ddim"),
)

# wav2vec2 and T5 are transformers' classes; their sizes stay in transformers' own words.
_CONV = {"conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_kernel": [10, 3, 3, 3, 3, 2, 2]}

BUILT_IN_SPEECH: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [32, 32, 32, 32, 32, 32, 32],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    **_CONV,
}

SPEECH_ENCODERS: dict[str, dict[str, Any]] = {
    "hallo3": {},  # wav2vec2-base-960h is what Wav2Vec2Config() describes
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": [24, 24, 24, 32, 32, 32, 32],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        **_CONV,
    },
    "nano": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8, 8, 8, 8, 8, 8, 8],
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        **_CONV,
    },
    "built-in": BUILT_IN_SPEECH,
}

TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "hallo3": {
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_heads": 64,
        "num_layers": 24,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    },
    "tiny": {
        "d_model": 40,
        "d_ff": 64,
        "d_kv": 10,
        "num_heads": 4,
        "num_layers": 2,
        "vocab_size": 384,
        "feed_forward_proj": "gated-gelu",
    },
    "built-in": {
        "d_model": 32,
        "d_ff": 64,
        "d_kv": 16,
        "num_heads": 2,
        "num_layers": 1,
        "vocab_size": 2048,
        "feed_forward_proj": "gated-gelu",
    },
    "nano": {
        "d_model": 16,
        "d_ff": 32,
        "d_kv": 8,
        "num_heads": 2,
        "num_layers": 1,
        "vocab_size": 384,
        "feed_forward_proj": "gated-gelu",
    },
}
