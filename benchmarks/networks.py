"""The transformer and the VAE on a device, with random weights: ours and the original's way over the same.

Numbers decide no times here, but zeros would: weights are normal with a spread of 0.02, norms near 1.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.baseline import Baseline
from hallo3.config import HALLO3, TINY, Hallo3Config
from hallo3.model.conditions import RunConditions, SegmentConditions
from hallo3.model.kernels.eager import Kernels
from hallo3.model.layers import Attention, Layers
from hallo3.model.transformer import Hallo3Transformer
from hallo3.sampling.schedule import make_schedule
from hallo3.vae.autoencoder import VideoVAE, build_vae, decode_slices

SPREAD = 0.02
AT_WORK = 12_000_000_000
"""Bytes left for what is not a block: activations, the VAE, the layers around the blocks."""
SMALL = replace(
    TINY,
    name="small",
    trunk=replace(TINY.trunk, layers=4, heads=4, head_dim=64),
    segment=replace(TINY.segment, frames=33),
)
"""For the CPU: the released model's kinds of layers, a width of 256, 33 frames of 96 x 64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and at which size: ``config`` may have fewer layers than the whole model (``whole_layers``)."""

    device: torch.device
    dtype: torch.dtype
    config: Hallo3Config
    whole_layers: int

    @property
    def full_size(self) -> bool:
        """Whether this is the released model's own size."""
        return self.config == HALLO3

    def said(self) -> dict[str, Any]:
        """The sizes, for a result."""
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


def place_on(device: torch.device, layers: int | None = None, config: Hallo3Config | None = None) -> Place:
    """The released model's size on CUDA, with as many layers as there is memory for, or a small one
    elsewhere; ``layers`` and ``config`` decide it by hand."""
    chosen = config or (HALLO3 if device.type == "cuda" else SMALL)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    whole = chosen.trunk.layers
    if layers is None and device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] - AT_WORK
        layers = max(1, room // _block_bytes(chosen, dtype))
    kept = whole if layers is None else min(layers, whole)
    fitting = replace(chosen, trunk=replace(chosen.trunk, layers=kept))
    return Place(device=device, dtype=dtype, config=fitting, whole_layers=whole)


def _block_bytes(config: Hallo3Config, dtype: torch.dtype) -> int:
    """A block's weights, and what is prepared for it: reference and audio keys and values, features."""
    one = replace(config, trunk=replace(config.trunk, layers=1))
    block = Hallo3Transformer(one, Layers(device="meta")).transformer_blocks[0]
    numbers = sum(parameter.numel() for parameter in block.parameters())
    latent, width = config.segment.shape.latent, config.trunk.width
    tokens = 3 * latent.tokens_per_frame + 4 * latent.frames * config.audio.tokens
    return (numbers + tokens * width) * dtype.itemsize


def filled(network: nn.Module, place: Place) -> nn.Module:
    """A network on meta, with random weights on the device."""
    network.to(place.dtype).to_empty(device=place.device)
    drawn = torch.Generator(place.device).manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.normal_(0, SPREAD, generator=drawn)
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.add_(1)
    return network.eval().requires_grad_(False)


class Inputs:
    """What a step reads besides weights, random."""

    def __init__(self, place: Place, steps: int) -> None:
        self.place, self.timesteps = place, make_schedule(steps).timesteps
        self._drawn = torch.Generator(place.device).manual_seed(1)
        trunk, latent, audio = place.config.trunk, place.config.segment.shape.latent, place.config.audio
        self.features = [self._random(1, latent.tokens_per_frame, trunk.width) for _ in range(trunk.layers)]
        self.face = self._random(1, place.config.face.embedding_dim)
        self.prompt = self._random(1, trunk.text_tokens, trunk.text_dim)
        frames = place.config.segment.frames
        self.windows = self._random(1, frames, audio.window, audio.layers, audio.channels)
        self.image_latents = self._random(1, trunk.latent_channels, *latent)
        self.latents = self._random(1, trunk.latent_channels, *latent).float()

    @torch.inference_mode()
    def prepared(
        self, dit: Hallo3Transformer, *, on_access: bool = False, steps_on_access: bool = False
    ) -> tuple[RunConditions, SegmentConditions]:
        """What is constant for a run, and for a segment; any transformer of these weights may read it."""
        run = dit.prepare(
            self.features,
            self.face,
            self.prompt,
            self.timesteps,
            on_access=on_access,
            steps_on_access=steps_on_access,
        )
        heard = dit.encode_audio(self.windows, on_access=on_access)
        return run, SegmentConditions(audio=heard, image_latents=self.image_latents)

    def _random(self, *shape: int) -> Tensor:
        place = self.place
        return torch.randn(*shape, device=place.device, dtype=place.dtype, generator=self._drawn)


class Networks:
    """One set of random weights, and the ways to compute a step with them."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.place = inputs, inputs.place
        built = filled(Hallo3Transformer(self.place.config, Layers(device="meta")), self.place)
        self._state = built.state_dict()

    def dit(self, kernels: Kernels, attention: Attention) -> Hallo3Transformer:
        """The transformer, over the one set of weights."""
        layers = Layers(device="meta", kernels=kernels, attention=attention)
        network = Hallo3Transformer(self.place.config, layers)
        network.load_state_dict(self._state, assign=True)
        return network.eval().requires_grad_(False)

    def baseline(self, kernels: Kernels, attention: Attention) -> Baseline:
        """A step as the original takes it."""
        return Baseline(
            dit=self.dit(kernels, attention),
            features=self.inputs.features,
            face=self.inputs.face,
            prompt=self.inputs.prompt,
            windows=self.inputs.windows,
            image_latents=self.inputs.image_latents,
            timesteps=self.inputs.timesteps.to(self.place.device),
            attention=attention,
        )

    @staticmethod
    def vae(place: Place) -> VideoVAE:
        """The VAE, with random weights of its own."""
        return cast(VideoVAE, filled(build_vae(place.config.vae), place))


def original_decode(codec: VideoVAE, latents: Tensor) -> Tensor:
    """Scaled latents -> frames [1, 3, F, H, W] on the CPU by diffusers' own decoder, called as the original
    calls it: slice by slice, the last frames before every convolution sent to the host's memory and back."""
    like = next(codec.parameters())
    parts = torch.split(latents.to(like) / codec.scaling_factor, decode_slices(latents.shape[2]), dim=2)
    cache, made = None, list[Tensor]()
    with caches_at_home(codec.network.decoder):
        for part in parts:
            frames, cache = codec.network.decoder(part, conv_cache=cache)
            made.append(frames)
    return torch.cat(made, dim=2).float().cpu()


@contextmanager
def caches_at_home(decoder: nn.Module) -> Generator[None]:
    """While entered, every causal convolution does what the original's does with its cache. Those over a
    single frame have none there."""
    known = cast(Any, decoder)
    kind = cast("type[nn.Module]", type(known.conv_in))
    layers = [layer for layer in decoder.modules() if isinstance(layer, kind)]
    for layer in layers:
        cast(Any, layer).forward = _at_home(layer)
    try:
        yield
    finally:
        for layer in layers:
            del cast(Any, layer).forward


def _at_home(layer: nn.Module) -> Any:
    known = cast(Any, layer)
    before = known.time_kernel_size - 1

    def forward(inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not before:
            return known.conv(inputs), None
        first = inputs[:, :, :1].expand(-1, -1, before, -1, -1) if conv_cache is None else conv_cache
        inputs = torch.cat((first.to(inputs.device), inputs), dim=2)
        return known.conv(inputs), inputs[:, :, -before:].contiguous().clone().cpu()

    return forward
