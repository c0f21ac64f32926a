"""Sizes and defaults as frozen dataclasses; the released Hallo3 model is what the defaults say.

``HALLO3`` is the real model, ``TINY`` has the proportions of the goldens, ``NANO`` is for long tests.
Numbers the original types into its maths (13 latent frames, 49/47 frames, 1350 reference tokens) are
derived here from the canvas and the segment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from .errors import CheckpointError
from .geometry import VideoShape

T = TypeVar("T")
LARGEST_SIZE, MOST_LAYERS = 1_000_000, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkConfig:
    """The CogVideoX-5B image-to-video transformer that both networks share (facts: backbone)."""

    layers: int = 42
    heads: int = 48
    head_dim: int = 64
    time_dim: int = 512
    feed_forward_ratio: int = 4
    text_dim: int = 4096
    text_tokens: int = 226
    latent_channels: int = 16
    rope_theta: float = 10000.0

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def in_channels(self) -> int:
        """Channels the patch embedding sees: noisy latents, then image latents."""
        return 2 * self.latent_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """Audio projection: windows of speech features become audio tokens (facts: audio projection)."""

    window: int = 5
    layers: int = 12
    channels: int = 768
    hidden: int = 512
    tokens: int = 32
    token_dim: int = 768


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceConfig:
    """Face projection: one identity embedding becomes face tokens; ``space`` names the embedding."""

    space: str = "arcface-glintr100"
    embedding_dim: int = 512
    tokens: int = 4
    token_dim: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """The CogVideoX 3D causal VAE in diffusers' terms (facts: diffusers VAE configuration)."""

    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    layers_per_block: int = 3
    latent_channels: int = 16
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    scaling_factor: float = 0.7

    def __post_init__(self) -> None:
        _agree(self.layers_per_block <= 16, "vae.layers_per_block", "at most 16")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentConfig:
    """One sampled stretch: its canvas, its frames, and the motion frames that overlap the last one."""

    frames: int = 49
    height: int = 480
    width: int = 720
    motion_frames: int = 2
    fps: int = 25
    sample_rate: int = 16000

    @property
    def shape(self) -> VideoShape:
        """Pixels of a segment."""
        return VideoShape(self.frames, self.height, self.width)

    @property
    def new_frames(self) -> int:
        """Frames a segment adds to the video."""
        return self.frames - self.motion_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a run uses when the user says nothing; a model file carries its own."""

    steps: int = 50
    guidance_scale: float = 3.5
    sampler: str = "dpmpp_2m_sde"
    motion_drop: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hallo3Config:
    """Everything a model folder says about its transformer; the other files carry their own part."""

    name: str = "hallo3"
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    face: FaceConfig = field(default_factory=FaceConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    defaults: Defaults = field(default_factory=Defaults)

    def __post_init__(self) -> None:
        trunk, segment = self.trunk, self.segment
        VideoShape.checked(*segment.shape)
        _agree(0 < segment.motion_frames < segment.frames, "segment.motion_frames", "1 to frames - 1")
        _agree(trunk.layers <= MOST_LAYERS, "trunk.layers", f"at most {MOST_LAYERS}")
        _agree(trunk.head_dim % 16 == 0, "trunk.head_dim", "a multiple of 16 (rotary axes are 2:3:3)")
        _agree(self.audio.window % 2 == 1, "audio.window", "an odd number")
        _agree(trunk.latent_channels == self.vae.latent_channels, "vae.latent_channels", "the trunk's")


def _agree(holds: bool, what: str, expected: str) -> None:
    if not holds:
        raise _refused(what, "a value the networks cannot use", expected)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    return asdict(config)


def from_dict(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """The configuration of type ``kind`` from JSON values; absent fields keep their defaults.

    Raises ``CheckpointError`` for an unknown field or a value of another type.
    """
    known = {f.name: f for f in fields(cast(Any, kind))}
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise _refused(what, f"unknown field {unknown[0]!r}", f"fields {', '.join(known)}")
    built = {name: _value(hints[name], value, f"{what}.{name}") for name, value in values.items()}
    return kind(**built)


def _value(hint: Any, value: Any, what: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _refused(what, repr(value)[:60], "an object")
        return from_dict(cast("type[Any]", hint), cast("Mapping[str, Any]", value), what)
    if hint == tuple[int, ...]:
        items = list(cast("list[object]", value)) if isinstance(value, list | tuple) else [None]
        if not 0 < len(items) <= 16 or not all(
            type(item) is int and 0 < item <= LARGEST_SIZE for item in items
        ):
            raise _refused(what, repr(items)[:60], "a list of positive whole numbers")
        return tuple(items)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (hint is int and not 1 <= value <= LARGEST_SIZE):
        words = f"a whole number from 1 to {LARGEST_SIZE}" if hint is int else hint.__name__
        raise _refused(what, repr(value)[:60], words)
    if hint is float and not math.isfinite(value):
        raise _refused(what, repr(value), "a finite number")
    return value


def check_sizes(config: Mapping[str, Any], sizes: frozenset[str], what: str) -> None:
    """Refuse anything but sizes in a configuration meant for another library's class: what else that
    class would read from it is not for a weights file to decide. Raises ``CheckpointError``."""
    if unknown := sorted(set(config) - sizes):
        raise _refused(what, f"the field {unknown[0]!r}"[:60], f"only {', '.join(sorted(sizes))}")
    for name, value in config.items():
        most = MOST_LAYERS if "layers" in name else LARGEST_SIZE
        items: list[object] = list(cast("list[object]", value)) if isinstance(value, list) else [value]
        if len(items) > 32 or not all(_small(item, most) for item in items):
            raise _refused(what, f"{name} {value!r}"[:60], f"sizes up to {most}, or a word")


def _small(item: object, most: int) -> bool:
    if isinstance(item, bool | float):
        return item == item
    return (isinstance(item, str) and len(item) < 40) or (isinstance(item, int) and 0 <= item <= most)


def _refused(what: str, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "The configuration stored with the weights cannot be used.",
        found=f"{what}: {found}",
        expected=expected,
        fix="use a file written by this version of hallo3, or an older hallo3 with this file",
    )


COMPONENT_TITLES = {
    "transformer": "Hallo3's transformer",
    "reference": "Hallo3's reference network",
    "vae": "CogVideoX's 3D VAE",
    "text_encoder": "T5's encoder",
    "speech_encoder": "wav2vec2",
}
"""What each part is, in words."""
COMPONENTS = tuple(COMPONENT_TITLES)


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
