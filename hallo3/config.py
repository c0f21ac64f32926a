"""Sizes and defaults as frozen dataclasses; the field defaults are the released model, ``HALLO3``. ``TINY``
has the proportions of the goldens, ``NANO`` is for long tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from .errors import CheckpointError
from .geometry import VideoShape

T = TypeVar("T")
MAX_SIZE, MAX_LAYERS, MAX_HEADS = 1_000_000, 512, 1024


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
        _require(self.layers_per_block <= 16, "vae.layers_per_block", "at most 16")
        groups = self.norm_num_groups
        whole = all(channels % groups == 0 for channels in self.block_out_channels)
        _require(whole, "vae.block_out_channels", f"multiples of norm_num_groups, {groups}")
        _require(0 < self.norm_eps <= 1, "vae.norm_eps", "a number from 0 to 1")
        _require(0.01 <= self.scaling_factor <= 100, "vae.scaling_factor", "0.01 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentConfig:
    """Canvas and frames of a segment, and the motion frames that it shares with the one before."""

    frames: int = 49
    height: int = 480
    width: int = 720
    motion_frames: int = 2
    fps: int = 25
    sample_rate: int = 16000

    @property
    def shape(self) -> VideoShape:
        return VideoShape(self.frames, self.height, self.width)

    @property
    def new_frames(self) -> int:
        return self.frames - self.motion_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Default settings; a model file carries its own."""

    steps: int = 50
    guidance_scale: float = 3.5
    sampler: str = "dpmpp_2m_sde"
    motion_drop: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hallo3Config:
    """The configuration in a transformer's file; the other files carry their own."""

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
        _require(0 < segment.motion_frames < segment.frames, "segment.motion_frames", "1 to frames - 1")
        _require(trunk.layers <= MAX_LAYERS, "trunk.layers", f"at most {MAX_LAYERS}")
        _require(trunk.heads <= MAX_HEADS, "trunk.heads", f"at most {MAX_HEADS}")
        _require(trunk.head_dim % 16 == 0, "trunk.head_dim", "a multiple of 16 (rotary axes are 2:3:3)")
        _require(1 <= trunk.rope_theta <= MAX_SIZE, "trunk.rope_theta", f"1 to {MAX_SIZE}")
        _require((segment.fps, segment.sample_rate) == (25, 16000), "segment.fps, sample_rate", "25, 16000")
        _require(self.audio.window % 2 == 1, "audio.window", "an odd number")
        _require(trunk.latent_channels == self.vae.latent_channels, "vae.latent_channels", "the trunk's")


def _require(holds: bool, what: str, expected: str) -> None:
    if not holds:
        raise _refused(what, "a value the networks cannot use", expected)


def to_dict(config: Any) -> dict[str, Any]:
    return asdict(config)


def from_dict(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """The configuration of type ``kind`` from JSON values; absent fields keep their defaults. Raises
    ``CheckpointError`` for an unknown field or a value of another type."""
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
        sizes = [item for item in items if type(item) is int and 0 < item <= MAX_SIZE]
        if not 0 < len(items) <= 16 or len(sizes) < len(items):
            raise _refused(what, repr(items)[:60], "a list of positive whole numbers")
        return tuple(items)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (hint is int and not 1 <= value <= MAX_SIZE):
        words = f"a whole number from 1 to {MAX_SIZE}" if hint is int else hint.__name__
        raise _refused(what, repr(value)[:60], words)
    if hint is float and not math.isfinite(value):
        raise _refused(what, repr(value), "a finite number")
    return value


def check_sizes(
    config: Mapping[str, Any], example: Mapping[str, Any], what: str, fixed: Set[str] = frozenset()
) -> None:
    """Refuse anything but sizes in a configuration for another library's class: a weights file must not
    decide anything else there. Each value is of the kind of its ``example``; words, and what is ``fixed``,
    are the example's. Raises ``CheckpointError``."""
    if unknown := sorted(set(config) - set(example)):
        raise _refused(what, f"the field {unknown[0]!r}"[:60], f"only {', '.join(sorted(example))}")
    for name, value in config.items():
        wanted = example[name]
        most = MAX_LAYERS if "layers" in name else MAX_HEADS if "heads" in name else MAX_SIZE
        if isinstance(wanted, str) or name in fixed:
            fits, expected = value == wanted, repr(wanted)
        elif isinstance(wanted, float):
            fits, expected = type(value) in (int, float) and 0 < value <= 1, "a number from 0 to 1"
        elif isinstance(wanted, bool):
            fits, expected = type(value) is bool, "true or false"
        else:
            items = list(cast("list[object]", value)) if isinstance(value, list) else [value]
            fits = isinstance(value, list) == isinstance(wanted, list) and 0 < len(items) <= 32
            fits = fits and all(type(item) is int and 1 <= item <= most for item in items)
            expected = f"whole numbers from 1 to {most:,}"
        if not fits:
            raise _refused(what, f"{name} {cast(object, value)!r}"[:80], expected)


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
    trunk=TrunkConfig(layers=6, heads=5, head_dim=32, time_dim=64, text_dim=48, text_tokens=24),
    audio=AudioConfig(layers=3, channels=48, hidden=128, tokens=4, token_dim=48),
    face=FaceConfig(space="drawn-face", tokens=2, token_dim=64),
    vae=VAEConfig(
        block_out_channels=(16, 32, 64, 96), layers_per_block=1, norm_num_groups=4, scaling_factor=2.6
    ),
    segment=SegmentConfig(frames=33, height=96, width=144),
    defaults=Defaults(steps=1, guidance_scale=1.0, sampler="ddim"),
)


def _wav2vec2(hidden: int, layers: int, heads: int, conv: list[int], positional: int) -> dict[str, Any]:
    """Fields of ``transformers.Wav2Vec2Config``; ``positional`` is the kernel of the position embedding."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * hidden,
        "conv_dim": conv,
        "num_conv_pos_embeddings": positional,
        "num_conv_pos_embedding_groups": positional // 4,
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    }


def _t5(d_model: int, d_ff: int, d_kv: int, heads: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """Fields of ``transformers.T5Config``."""
    return {
        "d_model": d_model,
        "d_ff": d_ff,
        "d_kv": d_kv,
        "num_heads": heads,
        "num_layers": layers,
        "vocab_size": vocabulary,
        "feed_forward_proj": "gated-gelu",
    }


SPEECH_ENCODERS: dict[str, dict[str, Any]] = {
    "hallo3": {},  # wav2vec2-base-960h is what Wav2Vec2Config() describes
    "tiny": _wav2vec2(32, 3, 4, [24, 24, 24, 32, 32, 32, 32], 16),
    "nano": _wav2vec2(16, 2, 2, [8] * 7, 8),
    "built-in": _wav2vec2(48, 3, 4, [32] * 7, 16),
}

TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "hallo3": _t5(4096, 10240, 64, 64, 24, 32128),
    "tiny": _t5(40, 64, 10, 4, 2, 384),
    "nano": _t5(16, 32, 8, 2, 1, 384),
    "built-in": _t5(48, 96, 16, 3, 1, 2048),
}
