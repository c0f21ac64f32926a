"""GPU memory of every stage of a run: weights, conditions and activations, from shapes alone.

Weights are counted on the meta device. Conditions and activations are closed formulas; activations are upper
bounds, at most 15 % above what is counted on the meta device (tests/offload/test_estimate.py), those of a
decode in ``vae/decode_memory.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..config import Hallo3Config
from ..quantization import Precision
from ..units import format_bytes
from ..vae.autoencoder import DEFAULT_PLAN
from ..vae.causal_conv import DecodePlan
from ..vae.decode_memory import convolution_scratch, decode_bytes
from .sizes import ModelSizes

RAM, DISK, DEVICE = "memory", "disk", "device"
FLOAT_BYTES = 4
BATCHED_FRAGMENTATION = 1.0  # share of the activations of a step with batched branches
DECODE_FRAGMENTATION = {"device": 0.4, "host": 0.0}  # share of a decode's, by where caches are
"""What PyTorch's allocator loses between tensors of many sizes, where that is more than
``budget.RESERVE_BYTES`` has (docs/measurements/fits.json)."""
BRANCH_LATENTS = 2  # velocity and estimate of each further branch
SAMPLER_LATENTS = 10  # in float32: noisy ones, estimates of two steps, noise, velocities of two branches
SPEECH_BYTES = 90_632_320
"""wav2vec2 over one piece of a recording. Attention over long ones is not counted: up to 1 GB for 10 minutes
and 2 GB for an hour, less than other stages take."""


@dataclass(frozen=True, slots=True)
class TensorSizes:
    """Bytes of conditions and activations. ``fused`` kernels hold less than PyTorch's own."""

    config: Hallo3Config
    precision: Precision
    fused: bool = False

    @property
    def itemsize(self) -> int:
        return self.precision.compute.itemsize

    @property
    def latents(self) -> int:
        """A segment's latents in float32."""
        latent = self.config.segment.shape.latent
        count = self.config.trunk.latent_channels * latent.frames * latent.height * latent.width
        return count * FLOAT_BYTES

    @property
    def reference_features(self) -> int:
        """Of all blocks; the reference tokens' keys and values take twice as much."""
        trunk = self.config.trunk
        rows = self.config.segment.shape.latent.tokens_per_frame
        return trunk.layers * rows * trunk.width * self.itemsize

    @property
    def audio_kv(self) -> int:
        """Keys and values of the audio tokens of one guidance branch, of all blocks."""
        trunk, frames = self.config.trunk, self.config.segment.shape.latent.frames
        return 2 * trunk.layers * frames * self.config.audio.tokens * trunk.width * self.itemsize

    def modulations(self, steps: int) -> int:
        """Of every block and the head, for every timestep."""
        trunk = self.config.trunk
        return steps * (trunk.layers * 12 + 2) * trunk.width * self.itemsize

    @property
    def face_kv(self) -> int:
        """Of one face: keys, and values folded into the output projection, of all blocks."""
        trunk, faces = self.config.trunk, self.config.face.tokens
        return trunk.layers * (faces + trunk.heads * faces + 1) * trunk.width * self.itemsize

    @property
    def face_text_rotary(self) -> int:
        """Of one face, see ``face_kv``; projected text of both branches; the rotary tables."""
        trunk = self.config.trunk
        rows = trunk.text_tokens + self.config.segment.shape.latent.tokens
        face = self.face_kv // self.itemsize
        return (face + 2 * trunk.text_tokens * trunk.width + 2 * rows * trunk.head_dim) * self.itemsize

    def _tokens(self, video_tokens: int) -> int:
        """Text and video tokens in the compute dtype; 109 MB for a segment of the released model."""
        trunk = self.config.trunk
        return (trunk.text_tokens + video_tokens) * trunk.width * self.itemsize

    def _forward(self, tokens: int, factor: float = 1.0) -> float:
        """A pass over these bytes of tokens: input, output, norm, the feed-forward's inner layer and its
        result, or the rotary embedding without fused kernels; and fp8 weights scaled back."""
        trunk = self.config.trunk
        forward = round(max(4.0 + trunk.feed_forward_ratio, 7.2 if self.fused else 10.3) * tokens)
        matrix = trunk.feed_forward_ratio * trunk.width**2
        scaled = max(matrix * self.itemsize, 2 * matrix * FLOAT_BYTES - tokens)
        return factor * forward + (scaled if self.precision.fp8_weights else 0)

    def sampling(self, passes: str, branches: int) -> int:
        """One step. Batched branches hold everything once each, and a block's audio keys and values side by
        side; layer-major ones hold the tokens of the branches that wait."""
        tokens = self._tokens(self.config.segment.shape.latent.tokens)
        peak = self._forward(tokens, 1.03)
        if branches > 1 and passes == "batched":
            peak = branches * (peak + self.audio_kv / self.config.trunk.layers)
        elif passes == "layer-major":
            peak += (branches - 1) * tokens
        return round(peak) + (SAMPLER_LATENTS + max(branches - 2, 0) * BRANCH_LATENTS) * self.latents

    def reference(self) -> int:
        """The reference network over one latent frame."""
        tokens = self._tokens(self.config.segment.shape.latent.tokens_per_frame)
        return int(self._forward(tokens)) + self.modulations(1)

    def projection(self, inputs: int) -> int:
        """An fp8 weight of a projection to keys or values, scaled back."""
        return 2 * inputs * self.config.trunk.width * FLOAT_BYTES if self.precision.fp8_weights else 0

    def audio_projection(self) -> int:
        """Of a segment: its windows, and the tokens before and after a convolution."""
        audio, frames = self.config.audio, self.config.segment.frames
        windows = frames * audio.window * audio.layers * audio.channels
        return round((windows + 2.2 * frames * audio.tokens * audio.token_dim) * self.itemsize)

    def vae_encode(self, frames: int) -> int:
        """A convolution at full resolution: what enters its resnet and its norm, its input and its output."""
        shape = self.config.segment.shape
        frame = shape.height * shape.width * self.config.vae.block_out_channels[0] * self.itemsize
        return round(1.03 * (4 * frames + 2) * frame)

    def t5(self, text: Mapping[str, Any]) -> int:
        """The feed-forward's inner layer, or the attention scores."""
        tokens = self.config.trunk.text_tokens
        inner, heads = int(text.get("d_ff", 10240)), int(text.get("num_heads", 64))
        return round(
            max(12.3 * tokens * inner, 4.0 * heads * tokens * tokens)
            * self.precision.of_text.compute.itemsize
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequirements:
    """``branches`` of guidance are evaluated in each of ``steps``. Without a ``prompt`` T5 is not needed,
    without a ``portrait`` (but a saved identity) the reference network is not. ``on_cpu`` all memory is RAM,
    where the VAE stays. ``speakers`` have a voice and a face each."""

    precision: Precision
    steps: int
    branches: int
    fused: bool = False
    prompt: bool = True
    portrait: bool = True
    on_cpu: bool = False
    speakers: int = 1

    @property
    def skipped(self) -> set[str]:
        """Names of the stages that do not run."""
        prompt, portrait = ("prompt",), ("portrait", "reference")
        return {*prompt[self.prompt :], *portrait[2 * self.portrait :]}


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadConfig:
    """Where weights and conditions are. ``home`` of the transformer's weights: if it is the "device", all of
    them and the VAE stay there; otherwise ``resident`` blocks stay on the device while a segment is sampled,
    and the others are streamed; with ``keep`` they stay between segments too. With ``keep_audio`` the audio
    projection of a transformer on disk stays in RAM between its uses, instead of being read in pieces.
    ``passes`` and both ``on_access`` are fields of ``Settings``."""

    home: str
    resident: int
    passes: str
    on_access: bool = False
    steps_on_access: bool = False
    decode: DecodePlan = DEFAULT_PLAN
    keep: bool = False
    keep_audio: bool = False

    @property
    def label(self) -> str:
        """Part of the key of measured throughput."""
        access = " on access" * self.on_access + " steps on access" * self.steps_on_access
        decode = f" {self.decode.strips} strips {self.decode.caches}" if self.decode != DEFAULT_PLAN else ""
        return f"{self.home} {self.resident} {self.passes}{access}{decode}"

    def as_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        keep = {name: True for name in ("keep", "keep_audio") if facts.pop(name)}
        return {"home": facts.pop("home"), "staying": facts.pop("resident"), **facts, **keep}


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Bytes at a stage's peak; ``streamed`` ones come from ``origin`` each time it runs (each step)."""

    name: str
    weights: int
    conditions: int
    activations: int
    description: str
    streamed: int = 0
    origin: str = ""
    fragmentation: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.conditions + self.activations

    @property
    def needed(self) -> int:
        """With what PyTorch's allocator loses in this stage, beside the share that it loses in each, or cuDNN
        takes to convert layouts."""
        return self.total + self.fragmentation

    @property
    def text(self) -> str:
        if not self.streamed:
            return self.description
        per_step = " per step" if self.name == "sample" else ""
        origin = "RAM" if self.origin == RAM else "disk"
        return f"{self.description}, {format_bytes(self.streamed)}{per_step} from {origin}"

    def as_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        description, _ = facts.pop("description"), facts.pop("fragmentation")
        return {**facts, "says": description, "total": self.total}


def plan_stages(
    sizes: ModelSizes, requirements: MemoryRequirements, offload: OffloadConfig
) -> tuple[StagePlan, ...]:
    """Every stage, in the order of a run."""
    config, weights = sizes.config, sizes.transformer
    tensors = TensorSizes(config, requirements.precision, requirements.fused)
    features, audio_kv, layers = tensors.reference_features, tensors.audio_kv, config.trunk.layers
    # Conditions prepared for a run and for a segment; those on access are projected when they are read.
    run = features if offload.on_access else 2 * features + audio_kv
    more = requirements.speakers - 1
    run += tensors.face_text_rotary + more * tensors.face_kv
    run += 0 if offload.steps_on_access else tensors.modulations(requirements.steps)
    segment = run + (0 if offload.on_access else (1 + more) * audio_kv)
    # Weights of a step: resident blocks, two streamed ones, two groups of each sequence read on access.
    streamed_blocks = max(0, weights.blocks.count - offload.resident)
    step = (weights.blocks.count - streamed_blocks + min(2, streamed_blocks)) * weights.blocks.largest
    step_streamed = streamed_blocks * weights.blocks.largest
    if offload.on_access:
        step += weights.projections.largest_pair
        step_streamed += weights.projections.total
    if offload.steps_on_access:
        step += weights.modulations.largest_pair
        step_streamed += weights.modulations.total
    sampling = tensors.sampling(offload.passes, requirements.branches)
    if offload.on_access:
        sampling += 6 * features // (2 * layers) + 2 * (1 + more) * audio_kv // layers
    t5, reference, vae = sizes.text_encoder, sizes.reference, sizes.vae
    audio, itemsize = tensors.audio_projection(), tensors.itemsize
    projected = 0 if offload.on_access else weights.projections.largest_pair
    modulated_pair = weights.projections.largest_pair + weights.modulations.largest_pair
    if offload.home == DISK:  # layers that prepare conditions are read without their block
        preparing, listening = weights.reference.largest_pair + modulated_pair, weights.audio.largest_pair
        read = weights.reference.total + weights.modulations.total + weights.projections.total
        read_later = 0 if offload.on_access else weights.audio.total
    else:
        preparing, listening = max(step + projected, modulated_pair), weights.projections.largest_pair
        read = weights.blocks.total + weights.modulations.total + weights.projections.total
        read_later = 0 if offload.on_access else weights.projections.total
    once = read_once = weights.once.total
    if offload.home == DISK and not offload.keep_audio:  # the kernel is read in pieces, for two convolutions
        once += 3 * weights.piece - weights.kernel
        read_once += weights.kernel
    kept = (weights.blocks.count - streamed_blocks) * weights.blocks.largest if offload.keep else 0
    kept_audio = once if offload.keep_audio else 0
    beside = vae if requirements.on_cpu else 0
    streamed_audio = 0 if offload.keep_audio else read_once

    on_device = {
        "speech": sizes.speech_encoder,
        "prompt": max(t5.blocks.largest_pair, t5.once.total),
        "portrait": vae,
        "reference": beside
        + reference.ungrouped
        + reference.blocks.largest_pair
        + reference.modulations.largest_pair,
        "prepare": beside + weights.ungrouped + max(once, preparing + kept_audio),
        "encode": vae + kept + kept_audio,
        "listen": beside + weights.ungrouped + kept + max(once, listening + kept_audio),
        "sample": beside + weights.ungrouped + step + kept_audio,
        "decode": vae + kept + kept_audio,
    }
    conditions = {"reference": features, "prepare": run, "encode": run, "listen": segment, "sample": segment}
    conditions["decode"] = run + tensors.latents
    latent = config.segment.shape.latent
    activations = {
        "speech": round(SPEECH_BYTES * int(sizes.speech.get("hidden_size", 768)) / 768),
        "prompt": tensors.t5(sizes.text),
        "portrait": tensors.vae_encode(1),
        "reference": tensors.reference(),
        "prepare": audio + 4 * features // layers + tensors.projection(config.trunk.width),
        "encode": tensors.vae_encode(1 + config.segment.motion_frames),
        "listen": audio + tensors.latents + tensors.projection(config.audio.token_dim),
        "sample": sampling,
        "decode": decode_bytes(config.vae, latent, offload.decode, itemsize, on_cpu=requirements.on_cpu),
    }
    streamed = {
        "prompt": t5.total,
        "reference": reference.blocks.total + reference.modulations.total,
        "prepare": read + read_once,
        "listen": streamed_audio + read_later,
        "sample": step_streamed * (max(requirements.branches, 2) if offload.passes == "sequential" else 1),
    }
    descriptions = _describe_stages(offload, requirements.branches, weights.blocks.count, streamed_blocks)
    if offload.home == DEVICE:  # the transformer and the VAE stay, once they are loaded
        whole = weights.total + vae
        before = {"speech": 0, "prompt": 0, "portrait": 0, "reference": vae - beside}
        on_device = {name: on_device[name] + before[name] if name in before else whole for name in on_device}
        streamed = {name: streamed[name] for name in ("prompt", "reference")}
    batched = requirements.branches > 1 and offload.passes == "batched"
    lost = {} if requirements.on_cpu else {"sample": BATCHED_FRAGMENTATION * activations["sample"] * batched}
    if lost:
        scratch = convolution_scratch(config.vae, latent, offload.decode, itemsize)
        lost["decode"] = max(scratch, DECODE_FRAGMENTATION[offload.decode.caches] * activations["decode"])
    return tuple(
        StagePlan(
            name,
            on_device[name],
            conditions.get(name, 0),
            activations[name],
            descriptions[name],
            streamed.get(name, 0),
            "" if name not in streamed else DISK if name in ("prompt", "reference") else offload.home,
            round(lost.get(name, 0)),
        )
        for name in on_device
        if name not in requirements.skipped
    )


def _describe_stages(offload: OffloadConfig, branches: int, blocks: int, streamed: int) -> dict[str, str]:
    passes = f"branches {offload.passes}" if branches > 1 else "one branch"
    resident = f"{blocks - streamed} of {blocks}" if streamed else f"all {blocks}"
    height = "whole height" if offload.decode.strips == 1 else f"{offload.decode.strips} strips"
    descriptions = {
        "speech": "wav2vec2 in float32",
        "prompt": "T5 by half blocks",
        "portrait": "VAE",
        "reference": "reference network by blocks",
        "prepare": "transformer by weight groups",
        "encode": "VAE",
        "listen": "audio projection",
        "sample": f"{resident} blocks resident, {passes}" + ", conditions on access" * offload.on_access,
        "decode": f"VAE, {height}, caches on the {offload.decode.caches}",
    }
    if offload.home == DEVICE:
        everything = "transformer and VAE resident"
        descriptions |= dict.fromkeys(("prepare", "encode", "listen"), everything)
        descriptions["sample"] = f"everything resident, {passes}"
    return descriptions
