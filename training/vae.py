"""The VAE's stage: small pieces first, then whole frames, decoded in slices as the model's user does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hallo3.config import VAEConfig
from hallo3.noise import make_generator
from hallo3.vae.autoencoder import VideoVAE, build_vae, decode_slices

from .optim import Average, Optimiser
from .pictures import Pool, render_pool
from .stage import CPU, Run

KL_WEIGHT = 2e-4
CHANNELS_LAST = torch.channels_last_3d


class Lesson(NamedTuple):
    """A part of the stage: steps, clips a step, their frames, the side of the piece that is cut out, and how
    much more than others the mouth's pixels count."""

    steps: int
    clips: int
    frames: int
    side: int
    mouth: float


LESSONS = (
    Lesson(600, 16, 1, 32, 6.0),
    Lesson(600, 4, 9, 32, 6.0),
    Lesson(650, 4, 9, 64, 2.5),
)
POOL_CLIPS, POOL_FRAMES = 2000, 17


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step learns from: pixels [B, 3, F, H, W] in -1..1, and a weight for every pixel, mean 1."""

    pixels: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Piece:
        """The same on a device."""
        return Piece(self.pixels.to(device), self.weight.to(device))


DECODER_LESSONS = (Lesson(1000, 2, 17, 64, 2.5),)
"""The decoder goes on alone while the transformer learns on what the encoder, finished, makes."""
VAE, DECODER = "vae", "decoder"


def train_vae(
    folder: Path,
    seed: int,
    config: VAEConfig,
    side: int,
    lessons: tuple[Lesson, ...] = LESSONS,
    device: torch.device = CPU,
) -> None:
    """Encoder and decoder; averaged weights are ``Run.state("average")``."""
    vae = fresh_vae(config, seed)
    run = Run(folder=folder, name=VAE, steps=_steps(lessons), seed=seed, device=device)
    _learn(run, vae, vae.network, lessons, side, (0.02, 2e-3), 0.5)


def train_decoder(
    folder: Path,
    seed: int,
    config: VAEConfig,
    side: int,
    lessons: tuple[Lesson, ...] = DECODER_LESSONS,
    device: torch.device = CPU,
) -> None:
    """The decoder of a finished VAE, alone; its averaged weights are ``Run.state("average")``."""
    vae = fresh_vae(config, seed)
    vae.network.load_state_dict(Run(folder=folder, name=VAE, steps=0, seed=seed).state("average"))
    vae.network.encoder.requires_grad_(False)
    run = Run(folder=folder, name=DECODER, steps=_steps(lessons), seed=seed, device=device)
    _learn(run, vae, vae.network.decoder, lessons, side, (0.006, 6e-4), 0.9)


def finished_vae(folder: Path, seed: int, config: VAEConfig, *, sharpened: bool) -> VideoVAE:
    """What the stages made, ready to use; ``sharpened`` with the decoder that went on alone."""
    vae = fresh_vae(config, seed)
    vae.network.load_state_dict(Run(folder=folder, name=VAE, steps=0, seed=seed).state("average"))
    if sharpened:
        decoder = Run(folder=folder, name=DECODER, steps=0, seed=seed)
        vae.network.decoder.load_state_dict(decoder.state("average"))
    return vae.eval().requires_grad_(False)


def _steps(lessons: tuple[Lesson, ...]) -> int:
    return sum(lesson.steps for lesson in lessons)


def _learn(
    run: Run,
    vae: VideoVAE,
    learning: nn.Module,
    lessons: tuple[Lesson, ...],
    side: int,
    rates: tuple[float, float],
    cooldown: float,
) -> None:
    if run.done() == run.steps:
        return
    vae.network.to(run.device)
    pool = render_pool(f"{run.seed}|{run.name}", POOL_CLIPS, POOL_FRAMES, side)
    optimiser = Optimiser(
        learning, run.steps, muon=rates[0], adamw=rates[1], ends=("conv_out",), cooldown=cooldown
    )
    average = Average(learning, 0.998)

    def step(index: int) -> dict[str, float]:
        r = make_generator(f"{run.seed}|{run.name}|{index}")
        piece = cut_out(pool, lesson_at(lessons, index), r).to(run.device)
        noise = torch.Generator().manual_seed(int(r.integers(2**31)))
        with torch.autocast(run.device.type, torch.bfloat16):
            posterior = vae.posterior(piece.pixels.contiguous(memory_format=CHANNELS_LAST))
            drawn = torch.randn(posterior.mean.shape, generator=noise)
            found = decoded(vae, posterior.sample(drawn))
        error = (found.float() - piece.pixels).abs()
        mean, log_variance = posterior.mean.float(), posterior.log_variance.float()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        ((error * piece.weight).mean() + KL_WEIGHT * kl).backward()
        norm = optimiser.step(index)
        average.update(index)
        seen = {"l1": error.mean(), "kl": kl, "deviation": mean.std()}
        return {"norm": norm, **{key: float(value.detach()) for key, value in seen.items()}}

    run.train(step, {"network": learning, "optimiser": optimiser, "average": average})


def fresh_vae(config: VAEConfig, seed: int) -> VideoVAE:
    """An untrained VAE with its layers' own initial values."""
    vae = build_vae(config)
    network: nn.Module = vae.network.to_empty(device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    for weight in network.parameters():
        if weight.ndim == 5:
            weight.data = weight.data.contiguous(memory_format=CHANNELS_LAST)
    return vae


def decoded(vae: VideoVAE, latents: Tensor) -> Tensor:
    """Frames of unscaled latents, in the slices in which the model decodes."""
    cache = None
    parts: list[Tensor] = []
    for part in torch.split(latents, decode_slices(latents.shape[2]), dim=2):
        frames, cache = vae.network.decoder(part, conv_cache=cache)
        parts.append(frames)
    return torch.cat(parts, dim=2)


def lesson_at(lessons: tuple[Lesson, ...], index: int) -> Lesson:
    """Which part of the stage a step belongs to."""
    for lesson in lessons:
        if index < lesson.steps:
            return lesson
        index -= lesson.steps
    return lessons[-1]


def cut_out(pool: Pool, lesson: Lesson, r: np.random.Generator) -> Piece:
    """Random clips and a random place on them, on the mouth half of the time."""
    clips, frames, whole = pool.frames.shape[:3]
    pixels = np.empty((lesson.clips, lesson.frames, lesson.side, lesson.side, 3), np.float32)
    weight = np.ones((lesson.clips, lesson.frames, lesson.side, lesson.side), np.float32)
    for row in range(lesson.clips):
        clip, first = int(r.integers(clips)), int(r.integers(frames - lesson.frames + 1))
        span = slice(first, first + lesson.frames)
        boxes = pool.mouths[clip, span]
        spare = whole - lesson.side
        left, top = (int(value) for value in r.integers(0, spare + 1, 2))
        if r.random() < 0.5:
            middle = (boxes[0, :2] + boxes[0, 2:]) // 2 - lesson.side // 2
            left, top = (int(np.clip(m + r.integers(-6, 7), 0, spare)) for m in middle)
        pixels[row] = pool.frames[clip, span, top : top + lesson.side, left : left + lesson.side]
        for frame, box in enumerate(boxes):
            x0, y0, x1, y1 = (max(0, int(v)) for v in box - np.int16((left, top, left, top)))
            weight[row, frame, y0:y1, x0:x1] = lesson.mouth
    pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 1)) / 127.5 - 1
    shares = torch.from_numpy(weight / weight.mean())[:, None]
    return Piece(torch.from_numpy(pixels), shares)
