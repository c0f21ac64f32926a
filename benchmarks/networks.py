"""The transformer and the VAE with random weights on a device: ours, and the original's way over the same."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hallo3.checkpoints.random_weights import M, fill_at_random
from hallo3.config import HALLO3, TINY, Hallo3Config, VAEConfig
from hallo3.model.blocks import Hallo3Block
from hallo3.model.embeddings import Rotary, rotary_tables
from hallo3.model.kernels.eager import Kernels, merge_heads, modulate, rotate, split_heads
from hallo3.model.layers import Attention, Layers, sdpa
from hallo3.model.transformer import Hallo3Transformer, RunConditions, SegmentConditions
from hallo3.quantization import PRECISIONS, Precision, fp8_scale, to_fp8
from hallo3.sampling.schedule import make_schedule
from hallo3.vae.autoencoder import DEFAULT_PLAN, VideoVAE, build_vae, decode_slices
from hallo3.vae.causal_conv import DecodePlan

META = Layers(device="meta")
OTHER_BYTES = 12_000_000_000
"""GPU memory for what is not a block: activations, the VAE, the layers around the blocks."""
SMALL = replace(
    TINY,
    name="small",
    trunk=replace(TINY.trunk, layers=4, heads=4, head_dim=64),
    segment=replace(TINY.segment, frames=33),
)
"""For the CPU: all kinds of layers of the released model, a width of 256, 33 frames of 96 x 64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Device and size: ``config`` may have fewer layers than the whole model (``whole_layers``). With ``fp8``
    the blocks' matrices are stored in that type."""

    device: torch.device
    dtype: torch.dtype
    config: Hallo3Config
    whole_layers: int
    fp8: bool = False

    @property
    def precision(self) -> Precision:
        names = (name for name, each in PRECISIONS.items() if each.compute == self.dtype)
        return PRECISIONS["fp8" if self.fp8 else next(names)]

    def layers(self, kernels: Kernels, attention: Attention) -> Layers:
        return replace(self.precision.layers("meta"), kernels=kernels, attention=attention)

    @property
    def full_size(self) -> bool:
        return self.config == HALLO3

    @property
    def parameters(self) -> int:
        """Of the transformer."""
        return sum(tensor.numel() for tensor in Hallo3Transformer(self.config, META).state_dict().values())

    def describe(self) -> dict[str, Any]:
        shape, trunk = self.config.segment.shape, self.config.trunk
        return {
            "config": self.config.name,
            "layers": f"{trunk.layers} of {self.whole_layers}",
            "full_size": self.full_size,
            "width": trunk.width,
            "type": str(self.dtype).removeprefix("torch."),
            "segment": f"{shape.frames} frames of {shape.width} x {shape.height}",
            "weights": "random",
        }


def choose_place(
    device: torch.device,
    layers: int | None = None,
    config: Hallo3Config | None = None,
    dtype: str | None = None,
) -> Place:
    """The released model's size on CUDA in bf16, with as many layers as fit, or a small one elsewhere in
    fp32; ``layers``, ``config`` and the name of a ``dtype`` override it."""
    chosen = config or (HALLO3 if device.type == "cuda" else SMALL)
    precision = PRECISIONS[dtype or ("bf16" if device.type == "cuda" else "fp32")]
    whole = chosen.trunk.layers
    if layers is None and device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] - OTHER_BYTES
        layers = max(1, room // _block_bytes(chosen, precision.compute))
    count = whole if layers is None else min(layers, whole)
    fitting = replace(chosen, trunk=replace(chosen.trunk, layers=count))
    return Place(
        device=device,
        dtype=precision.compute,
        config=fitting,
        whole_layers=whole,
        fp8=precision.fp8_weights,
    )


def _block_bytes(config: Hallo3Config, dtype: torch.dtype) -> int:
    """A block's weights and conditions: reference and audio keys and values, features."""
    one = replace(config, trunk=replace(config.trunk, layers=1))
    block = Hallo3Transformer(one, Layers(device="meta")).transformer_blocks[0]
    numbers = sum(parameter.numel() for parameter in block.parameters())
    latent, width = config.segment.shape.latent, config.trunk.width
    tokens = 3 * latent.tokens_per_frame + 4 * latent.frames * config.audio.tokens
    return (numbers + tokens * width) * dtype.itemsize


def make_generator(device: torch.device, seed: int) -> torch.Generator | None:
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


def fill(network: M, place: Place, home: torch.device | None = None) -> M:
    """A network with random weights, in ``home`` instead of on the device; matrices in fp8 where the place
    has them."""
    network = fill_at_random(network, place.dtype, place.device, home)
    if place.fp8:
        state = network.state_dict()
        for name in [each for each in state if place.precision.is_fp8(each)]:
            scale = fp8_scale(state[name].abs().max().cpu())
            state[name] = to_fp8(state[name].float(), scale.to(state[name].device))
            state[name.removesuffix("weight") + "weight_scale"] = scale
        network.load_state_dict(state, assign=True)
    return network


class Inputs:
    """Random inputs of a step."""

    def __init__(self, place: Place, steps: int) -> None:
        self.place, self.timesteps = place, make_schedule(steps).timesteps
        self._generator = make_generator(place.device, 1)
        trunk, latent, audio = place.config.trunk, place.config.segment.shape.latent, place.config.audio
        self.features = [self._random(1, latent.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
        self.face = self._random(1, place.config.face.embedding_dim)
        self.prompt = self._random(1, trunk.text_tokens, trunk.text_dim)
        frames = place.config.segment.frames
        self.windows = self._random(1, frames, audio.window, audio.layers, audio.channels)
        self.image_latents = self._random(1, trunk.latent_channels, *latent)
        self.latents = self._random(1, trunk.latent_channels, *latent).float()

    @torch.no_grad()
    def prepare(
        self, dit: Hallo3Transformer, *, on_access: bool = False, steps_on_access: bool = False
    ) -> tuple[RunConditions, SegmentConditions]:
        conditions = self.features, self.face, self.timesteps
        run = dit.prepare(*conditions, on_access=on_access, steps_on_access=steps_on_access)
        audio = dit.encode_audio(self.windows, on_access=on_access)
        text = dit.encode_text(self.prompt)
        return run, SegmentConditions(text=text, audio=audio, image_latents=self.image_latents)

    def _random(self, *shape: int) -> Tensor:
        place = self.place
        return torch.randn(*shape, device=place.device, dtype=place.dtype, generator=self._generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalStep:
    """A step as the original takes it, over our network's weights: nothing prepared, nothing fused.

    Reference tokens run through the whole joint attention, queries and all; face tokens are repeated for
    every frame; adaptive norms, audio projection, keys and values are computed in every step, for both
    branches as one batch. Shapes: reference features [1, R, D] per block, face [1, E], prompt [1, M,
    text_dim], speech windows [1, F, window, layers, channels], image latents [1, C, T, H, W], timesteps [S].
    """

    dit: Hallo3Transformer
    features: list[Tensor]
    face: Tensor
    prompt: Tensor
    windows: Tensor
    image_latents: Tensor
    timesteps: Tensor
    attention: Attention = sdpa

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Noisy latents -> velocities [2, C, T, H, W], the unconditional first."""
        dit, like = self.dit, self.prompt
        both = torch.cat((torch.zeros_like(like), like)), torch.cat((self.windows * 0, self.windows))
        text = dit.patch_embed.text(both[0])
        audio = dit.audio_proj(both[1]).flatten(0, 1)
        face = dit.face_proj(self.face).repeat(len(both[0]) * dit.latent.frames, 1, 1)
        pair = [each.to(like).expand(2, -1, -1, -1, -1) for each in (latents, self.image_latents)]
        video = dit.embed(*pair)
        rotary = rotary_tables(dit.config, dit.latent).to(like)
        time = dit.time_embedding(self.timesteps[step : step + 1].to(like.device), like.dtype)
        for block, feature in zip(dit.transformer_blocks, self.features, strict=True):
            block = cast(Hallo3Block, block)
            video, text = self._attend(block, video, text, feature, time, rotary)
            video = self._cross(block, video, face, audio, rotary)
            video, text = self._feed_forward(block, video, text, time)
        return dit.head(video, dit.norm_out.modulation(time))

    def _attend(
        self, block: Hallo3Block, video: Tensor, text: Tensor, feature: Tensor, time: Tensor, rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        m, attn = block.norm1.modulation(time), block.attn1
        feature = feature.expand(len(video), -1, -1)
        tokens = torch.cat((_modulate_norm(block.norm1.norm, video, text, m), feature), dim=1)
        q, k, v = (split_heads(linear(tokens), attn.heads) for linear in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        first, end = text.shape[1], text.shape[1] + video.shape[1]

        def rotate_video(x: Tensor) -> Tensor:
            middle = rotate(x[:, :, first:end], rotary.cos, rotary.sin)
            return torch.cat((x[:, :, :first], middle, x[:, :, end:]), dim=2)

        out = attn.to_out[0](merge_heads(self.attention(rotate_video(q), rotate_video(k), v)))
        return video + m[:, 2:3] * out[:, first:end], text + m[:, 5:6] * out[:, :first]

    def _cross(
        self, block: Hallo3Block, video: Tensor, face: Tensor, audio: Tensor, rotary: Rotary
    ) -> Tensor:
        cos, sin = rotary.frame_0.cos, rotary.frame_0.sin
        ways = (block.attn_face, block.norm_face, face), (block.attn_audio, block.norm_audio, audio)
        for attn, norm, tokens in ways:
            frames = norm(video).reshape(len(tokens), len(cos), -1)
            q = rotate(block.attn1.norm_q(split_heads(attn.to_q(frames), attn.heads)), cos, sin)
            k = block.attn1.norm_k(split_heads(attn.to_k(tokens), attn.heads))
            attended = self.attention(q, k, split_heads(attn.to_v(tokens), attn.heads))
            video = video + attn.to_out[0](merge_heads(attended)).reshape(video.shape)
        return video

    def _feed_forward(
        self, block: Hallo3Block, video: Tensor, text: Tensor, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        m, first = block.norm2.modulation(time), text.shape[1]
        net, norm = block.ff.net, block.norm2.norm
        hidden = F.gelu(net[0].proj(_modulate_norm(norm, video, text, m)), approximate="tanh")
        out = net[2](hidden)
        return video + m[:, 2:3] * out[:, first:], text + m[:, 5:6] * out[:, :first]


def _modulate_norm(norm: torch.nn.Module, video: Tensor, text: Tensor, m: Tensor) -> Tensor:
    parts = modulate(norm(text), m[:, 3:4], m[:, 4:5]), modulate(norm(video), m[:, 0:1], m[:, 1:2])
    return torch.cat(parts, dim=1)


class Networks:
    """The transformer with random weights, ours and the original's way over the same."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.place = inputs, inputs.place
        network = fill(Hallo3Transformer(self.place.config, Layers(device="meta")), self.place)
        self._state = network.state_dict()

    def dit(self, kernels: Kernels, attention: Attention) -> Hallo3Transformer:
        layers = Layers(device="meta", kernels=kernels, attention=attention)
        network = Hallo3Transformer(self.place.config, layers)
        network.load_state_dict(self._state, assign=True)
        return network.eval().requires_grad_(False)

    def original(self, kernels: Kernels, attention: Attention) -> OriginalStep:
        same = ("features", "face", "prompt", "windows", "image_latents")
        inputs: dict[str, Any] = {name: getattr(self.inputs, name) for name in same}
        timesteps = self.inputs.timesteps.to(self.place.device)
        return OriginalStep(
            dit=self.dit(kernels, attention), attention=attention, timesteps=timesteps, **inputs
        )


def build_random_vae(place: Place, decode: DecodePlan = DEFAULT_PLAN) -> VideoVAE:
    return fill(build_vae(place.config.vae, decode), place)


def build_diffusers_vae(config: VAEConfig) -> Any:
    """diffusers' own network, on meta."""
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    levels = len(config.block_out_channels)
    with torch.device("meta"):
        return cast(Any, AutoencoderKLCogVideoX)(
            block_out_channels=config.block_out_channels,
            down_block_types=("CogVideoXDownBlock3D",) * levels,
            up_block_types=("CogVideoXUpBlock3D",) * levels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            scaling_factor=config.scaling_factor,
        )


def as_diffusers(codec: VideoVAE, config: VAEConfig) -> Any:
    """diffusers' own network over a VAE's weights."""
    network = build_diffusers_vae(config)
    network.load_state_dict(codec.network.state_dict(), assign=True)
    return network.eval().requires_grad_(False)


def decode_as_original(network: Any, latents: Tensor) -> Tensor:
    """Scaled latents -> frames [1, 3, F, H, W] on the CPU by diffusers' ``network``, called as the original
    calls it: slice by slice, the last frames before every convolution copied to RAM and back."""
    unscaled = latents.to(next(network.parameters())) / network.config.scaling_factor
    cache, slices = None, list[Tensor]()
    with caches_in_ram(network.decoder):
        for part in torch.split(unscaled, decode_slices(latents.shape[2]), dim=2):
            frames, cache = network.decoder(part, conv_cache=cache)
            slices.append(frames)
    return torch.cat(slices, dim=2).float().cpu()


@contextmanager
def caches_in_ram(decoder: nn.Module) -> Generator[None]:
    """While entered, causal convolutions copy their caches as the original's do; those over a single frame
    have none."""
    kind = cast("type[nn.Module]", type(decoder.conv_in))
    layers = cast("list[Any]", [layer for layer in decoder.modules() if isinstance(layer, kind)])
    for layer in layers:
        layer.forward = _forward_with_cache_in_ram(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward_with_cache_in_ram(layer: Any) -> Any:
    before = layer.time_kernel_size - 1

    def forward(inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not before:
            return layer.conv(inputs), None
        first = inputs[:, :, :1].expand(-1, -1, before, -1, -1) if conv_cache is None else conv_cache
        inputs = torch.cat((first.to(inputs.device), inputs), dim=2)
        return layer.conv(inputs), inputs[:, :, -before:].contiguous().clone().cpu()

    return forward
