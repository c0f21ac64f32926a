"""How long a segment of a model takes, put together from timed parts with random weights.

What a device is too slow for at full size is measured as a piece: attention is then scaled by its operations,
everything else by tokens or pixels, with a larger error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import mean, stdev
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..checkpoints.random_weights import fill_at_random
from ..config import Hallo3Config
from ..geometry import PATCH, SPACE_FACTOR, VideoShape
from ..jobs.estimate import ModelSpeed
from ..media.drift import measure_drift
from ..media.video import VideoEncoding, encode_segment
from ..model.attention import KV
from ..model.blocks import BlockConditions, BlockModulation, Hallo3Block
from ..model.embeddings import AudioProjection, rotary_tables
from ..model.kernels.eager import Kernels
from ..model.layers import Layers, sdpa
from ..model.transformer import Trunk
from ..offload.budget import DECODE_PLANS
from ..offload.streaming import StreamedModule, store_in_memory
from ..offload.system_memory import free_bytes
from ..offload.weight_store import split_groups
from ..progress import ProgressCallback
from ..quantization import Precision
from ..units import GB
from ..vae.autoencoder import build_vae, decode_slices
from ..vae.causal_conv import DecodePlan
from ..vae.decode_memory import decode_bytes

MAX_PIECE_SECONDS = 2.0
MAX_ROUNDS = 15
STREAMED_BLOCKS = 4
ENCODED_SIDES = {"encode small": 64, "encode large": 256}
"""Of square videos, whose encoding tells what a pixel takes, and a segment of any size."""
ERROR, SCALED_ERROR = 0.15, 0.35
"""Of a time that is put together from parts, relative; the spread of the parts is added."""
LARGE_PROJECTION = 200_000_000
"""Parameters of an audio projection that is not measured: it runs once per segment."""
BLOCK_FLOP, DECODE_FLOP = 32, 9e3
"""Of a block per token and square of its width; of a decode per pixel and square of its narrowest width."""
EFFICIENCY = 0.4
"""Share of the rate of products that networks reach, to choose the size of pieces."""


class Timing(NamedTuple):
    """Mean seconds of several runs, and twice its standard error, as a share of it."""

    seconds: float
    spread: float


def time_in_turn(
    parts: Mapping[str, Callable[[], object]],
    seconds: float,
    device: torch.device,
    progress: ProgressCallback,
) -> dict[str, Timing]:
    """Run functions in turn, so that what slows a computer for a while slows all of them, until ``seconds``
    have passed. The first round warms up, if there is a second."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    begun = time.perf_counter()
    for number in range(MAX_ROUNDS):
        for name, run in parts.items():
            since = time.perf_counter()
            run()
            wait(device)
            times[name].append(time.perf_counter() - since)
            progress(0)
        if (time.perf_counter() - begun) * (number + 2) / (number + 1) > seconds:
            break
    return {name: _summarize(each[1:] or each) for name, each in times.items()}


def _summarize(times: Sequence[float]) -> Timing:
    middle = max(1e-9, mean(times))
    return Timing(middle, 2 * stdev(times) / len(times) ** 0.5 / middle if len(times) > 1 else 0.0)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class ModelMeasurement:
    """Times what a segment of a model is made of, on a device in a precision; ``rate`` is its FLOP per second
    in products."""

    def __init__(
        self, config: Hallo3Config, precision: Precision, device: torch.device, kernels: Kernels, rate: float
    ) -> None:
        self._config, self._precision, self._device = config, precision, device
        self.streams = device.type == "cuda" and not is_small(config)
        self._layers = Layers(device="meta", kernels=kernels)
        trunk, shape, goal = config.trunk, config.segment.shape, MAX_PIECE_SECONDS * rate * EFFICIENCY
        tokens = trunk.text_tokens + shape.latent.tokens
        attention = 4 * tokens * trunk.width * (tokens + shape.latent.tokens_per_frame)
        block = BLOCK_FLOP * trunk.width**2 * tokens + attention
        decode = DECODE_FLOP * config.vae.block_out_channels[0] ** 2 * math.prod(shape) / shape.latent.frames
        self._canvas = _piece(shape, goal / block)
        self._picture = _piece(shape, goal / decode / 3)
        share = self._canvas.latent.tokens / shape.latent.tokens
        self._scaled = share < 1
        self._trunk = replace(trunk, text_tokens=max(4, round(trunk.text_tokens * share)))
        self._tokens = tokens / (self._trunk.text_tokens + self._canvas.latent.tokens)
        self._pixels = math.prod(shape) / math.prod(self._picture)
        self._attention_flop = attention

    def measure(self, seconds: float, progress: ProgressCallback, attention_rate: float) -> ModelSpeed:
        begun = time.perf_counter()
        with ExitStack() as stack:
            parts = self._block_parts(stack) | self._decode_parts() | self._writing_parts()
            progress(0)
            t = time_in_turn(parts, begun + seconds - time.perf_counter(), self._device, progress)
        blocks, slices = (
            self._config.trunk.layers,
            len(decode_slices(self._config.segment.shape.latent.frames)),
        )
        single, both = t["single"].seconds, t["both"].seconds if "both" in t else 2 * t["single"].seconds
        if self._scaled:
            piece = t["attention"].seconds
            whole = self._attention_flop / (attention_rate or self._piece_attention_flop() / piece)
            single = self._tokens * max(0.0, single - piece) + whole
            both = 2 * single
        ends = self._tokens * t["ends"].seconds
        first, later = t["first slice"].seconds, t["two slices"].seconds - t["first slice"].seconds
        beside = self._pixels * (t["encode"].seconds + first + (slices - 1) * max(0.0, later))
        beside += t["listen"].seconds if "listen" in t else 0.0
        small, large = (t[name].seconds for name in ENCODED_SIDES)
        less, more = (self._config.segment.frames * side**2 for side in ENCODED_SIDES.values())
        pixel = max(0.0, large - small) / (more - less)
        beside += t["judge"].seconds + max(0.0, small - pixel * less)
        work = blocks * single + ends + beside
        spread = (blocks * single + ends) * t["single"].spread + beside * t["first slice"].spread
        error = (SCALED_ERROR if self._scaled else ERROR) + spread / work
        streamed = t["streamed"].seconds / STREAMED_BLOCKS * blocks if "streamed" in t else 0.0
        return ModelSpeed(
            both=blocks * both + 2 * ends,
            single=blocks * single + ends,
            streamed=streamed + 2 * ends if streamed else 0.0,
            beside=beside,
            pixel=pixel,
            blocks=blocks,
            error=min(1.0, error),
        )

    def _piece_attention_flop(self) -> int:
        queries = self._trunk.text_tokens + self._canvas.latent.tokens
        return 4 * queries * self._trunk.width * (queries + self._canvas.latent.tokens_per_frame)

    def _block_parts(self, stack: ExitStack) -> dict[str, Callable[[], object]]:
        config, trunk, latent = self._config, self._trunk, self._canvas.latent
        draw, audio, face, layers = self._random, config.audio, config.face, self._layers
        network = Trunk(trunk, latent, [Hallo3Block(trunk, face, audio, layers)], layers)
        network = self._fill(network)
        block = cast(Hallo3Block, network.transformer_blocks[0])
        rotary = rotary_tables(trunk, latent, trunk.text_tokens).to(draw(1))
        modulation = BlockModulation(*(0.1 * draw(1, 6, trunk.width) for _ in range(2)))
        sides = (draw(1, trunk.heads, latent.tokens_per_frame, trunk.head_dim) for _ in range(2))
        reference, folded = KV(*sides), block.fold_output_projection(draw(1, face.tokens, face.token_dim))

        def step(branches: int, blocks: Any) -> Callable[[], object]:
            heard = block.audio_kv(draw(branches * latent.frames, audio.tokens, audio.token_dim))
            conditions = BlockConditions(reference, folded, heard)
            tokens = (
                draw(branches, latent.tokens, trunk.width),
                draw(branches, trunk.text_tokens, trunk.width),
            )

            def run() -> None:
                for each in blocks:
                    each(*tokens, modulation, rotary, conditions)

            return run

        latents, head = draw(1, trunk.latent_channels, *latent), draw(1, 2, trunk.width)
        parts: dict[str, Callable[[], object]] = {
            "single": step(1, [block]),
            "ends": lambda: network.head(network.embed(latents, latents), head),
        }
        if self._scaled:
            shapes = (
                trunk.text_tokens + latent.tokens + more for more in (0, *2 * (latent.tokens_per_frame,))
            )
            q, k, v = (draw(1, trunk.heads, count, trunk.head_dim) for count in shapes)
            parts["attention"] = partial(sdpa, q, k, v)
        else:
            parts["both"] = step(2, [block])
        projection = AudioProjection(audio, layers)
        if sum(each.numel() for each in projection.parameters()) <= LARGE_PROJECTION:
            windows = draw(1, config.segment.frames, audio.window, audio.layers, audio.channels)
            parts["listen"] = partial(self._fill(projection), windows)
        if self.streams:
            blocks: list[Any] = []
            parts["streamed"] = step(2, blocks)
            blocks += stack.enter_context(self._streamed()).transformer_blocks
        return parts

    def _streamed(self) -> StreamedModule[Trunk]:
        """Blocks whose weights come from pinned memory, as in a run."""
        config, trunk = self._config, replace(self._trunk, layers=STREAMED_BLOCKS)
        blocks = (Hallo3Block(trunk, config.face, config.audio, self._layers) for _ in range(trunk.layers))
        network = self._fill(Trunk(trunk, self._canvas.latent, blocks, self._layers), torch.device("cpu"))
        stored = store_in_memory(network, split_groups(network), pinned=self._device.type == "cuda")
        return StreamedModule(lambda: stored, self._device)

    def _decode_parts(self) -> dict[str, Callable[[], object]]:
        config, shape = self._config, self._picture
        vae = build_vae(config.vae, self._decode_plan())
        self._fill(cast(torch.nn.Module, vae.network))
        slices = decode_slices(config.segment.shape.latent.frames)[:2]
        latents = self._random(1, config.vae.latent_channels, *shape.latent)

        def decode(count: int) -> None:
            part = latents[:, :, : sum(slices[:count])]
            for frames in islice(vae.decode(part, slices[:count]), count):
                _ = frames.float().cpu()

        pixels = self._random(1, 3, 1 + config.segment.motion_frames, shape.height, shape.width)
        return {
            "encode": lambda: vae.encode(pixels),
            "first slice": partial(decode, 1),
            "two slices": partial(decode, 2),
        }

    def _decode_plan(self) -> DecodePlan:
        if self._device.type != "cuda":
            return DecodePlan()
        free, itemsize = free_bytes(self._device) - GB, self._precision.compute.itemsize
        latent, vae = self._picture.latent, self._config.vae
        fitting = (plan for plan in DECODE_PLANS if decode_bytes(vae, latent, plan, itemsize) < free)
        return next(fitting, DECODE_PLANS[-1])

    def _writing_parts(self) -> dict[str, Callable[[], object]]:
        """Encoding two sizes of a segment, of a slow pan, as a talking head moves little; and judging its
        frames."""
        frames, height, width = self._config.segment.shape

        def encode(side: int) -> Callable[[], object]:
            across = torch.linspace(0, 6, side) + torch.linspace(0, 3, side).unsqueeze(1)
            shown = [(torch.sin(across + 0.02 * n).expand(3, -1, -1) + 1) / 2 for n in range(frames)]
            return lambda: encode_segment(shown, VideoEncoding(), self._config.segment.fps)

        picture = torch.rand(3, height, width)
        judged = picture.expand(frames, -1, -1, -1)
        parts: dict[str, Callable[[], object]] = {"judge": lambda: measure_drift(judged, picture, picture)}
        return parts | {name: encode(side) for name, side in ENCODED_SIDES.items()}

    def _fill(self, network: Any, home: torch.device | None = None) -> Any:
        return fill_at_random(network, self._precision.compute, self._device, home)

    def _random(self, *shape: int) -> Tensor:
        return draw_random(self._device, self._precision, *shape)


def _piece(shape: VideoShape, share: float) -> VideoShape:
    """All frames of a canvas of about this share of the pixels; the whole canvas if it is 1 or more."""
    if share >= 1:
        return shape
    step = SPACE_FACTOR * PATCH
    height, width = (max(step, int(side * share**0.5) // step * step) for side in shape[1:])
    return VideoShape(shape.frames, height, width)


def is_small(config: Hallo3Config) -> bool:
    return config.trunk.layers * config.trunk.width**2 < 1e8


def draw_random(device: torch.device, precision: Precision, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=precision.compute, device=device).normal_()
