"""The VAE's stage: small crops first, then whole frames, decoded in slices as a render decodes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import build_diffusers_vae
from hallo3.config import VAEConfig
from hallo3.noise import make_generator
from hallo3.vae.autoencoder import Posterior, VideoVAE, decode_slices

from .optim import Optimiser, WeightAverage
from .parallel import take_share
from .pictures import ClipPool, render_pool
from .stage import CPU, Run

KL_WEIGHT = 2e-4
EDGE_WEIGHT = 0.5
"""Of errors in the differences between neighbouring pixels: keeps small things sharp."""
MOTION_WEIGHT = 0.5
"""Of errors in the differences between frames: four share a latent, and a mouth is not where it was."""
MOUTH_CROPS = 0.7
"""Share of the crops around a mouth."""
CHANNELS_LAST = torch.channels_last_3d


class Phase(NamedTuple):
    """Steps, clips per step, frames per clip, the crop's side, and the weight of the mouth's pixels."""

    steps: int
    clips: int
    frames: int
    side: int
    mouth_weight: float


PHASES = (
    Phase(400, 16, 1, 32, 6.0),
    Phase(400, 4, 9, 32, 6.0),
    Phase(2600, 4, 9, 64, 2.5),
    Phase(1700, 4, 9, 64, 12.0),
)
DECODER_PHASES = (Phase(1600, 2, 17, 64, 2.5),)
"""The decoder alone; it may train beside the transformer, which needs the finished encoder only."""
POOL_CLIPS, POOL_FRAMES = 1400, 17
VAE, DECODER = "vae", "decoder"


@dataclass(frozen=True, slots=True)
class Crops:
    """Pixels [B, 3, F, H, W] in -1..1, and a weight for every pixel with mean 1."""

    pixels: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Crops:
        return Crops(self.pixels.to(device), self.weight.to(device))


def train_vae(
    folder: Path,
    seed: int,
    config: VAEConfig,
    size: tuple[int, int],
    phases: tuple[Phase, ...] = PHASES,
    device: torch.device = CPU,
) -> None:
    """Train encoder and decoder; the averaged weights are ``Run.state("average")``."""
    vae = make_vae(config, seed)
    run = Run(folder=folder, name=VAE, steps=sum(phase.steps for phase in phases), seed=seed, device=device)
    _train(run, vae, vae.network, phases, size, (0.02, 2e-3), 0.5)


def train_decoder(
    folder: Path,
    seed: int,
    config: VAEConfig,
    size: tuple[int, int],
    phases: tuple[Phase, ...] = DECODER_PHASES,
    device: torch.device = CPU,
) -> None:
    """Train only the decoder of a finished VAE; the averaged weights are ``Run.state("average")``."""
    vae = make_vae(config, seed)
    vae.network.load_state_dict(Run(folder=folder, name=VAE, steps=0, seed=seed).state("average"))
    vae.network.encoder.requires_grad_(False)
    steps = sum(phase.steps for phase in phases)
    run = Run(folder=folder, name=DECODER, steps=steps, seed=seed, device=device)
    _train(run, vae, vae.network.decoder, phases, size, (0.006, 6e-4), 0.9)


def load_vae(folder: Path, seed: int, config: VAEConfig, *, tuned_decoder: bool) -> VideoVAE:
    """The trained VAE; ``tuned_decoder`` uses the decoder of the stage ``decoder``."""
    vae = make_vae(config, seed)
    vae.network.load_state_dict(Run(folder=folder, name=VAE, steps=0, seed=seed).state("average"))
    if tuned_decoder:
        decoder = Run(folder=folder, name=DECODER, steps=0, seed=seed)
        vae.network.decoder.load_state_dict(decoder.state("average"))
    return vae.eval().requires_grad_(False)


def _train(
    run: Run,
    vae: VideoVAE,
    trained: nn.Module,
    phases: tuple[Phase, ...],
    size: tuple[int, int],
    rates: tuple[float, float],
    cooldown: float,
) -> None:
    if run.completed_steps() == run.steps:
        return
    vae.network.to(run.device)
    pool = render_pool(f"{run.seed}|{run.name}", POOL_CLIPS, POOL_FRAMES, size, torch.get_num_threads())
    optimiser = Optimiser(
        trained, run.steps, muon=rates[0], adamw=rates[1], adamw_layers=("conv_out",), cooldown=cooldown
    )
    average = WeightAverage(trained, 0.998)

    def step(index: int) -> dict[str, float]:
        r = make_generator(f"{run.seed}|{run.name}|{index}")
        crops = crop_clips(pool, find_phase(phases, index), r)
        count = len(crops.pixels)
        crops = Crops(take_share(crops.pixels), take_share(crops.weight)).to(run.device)
        generator = torch.Generator().manual_seed(int(r.integers(2**31)))
        with torch.autocast(run.device.type, torch.bfloat16):
            moments, _ = vae.network.encoder(crops.pixels.contiguous(memory_format=CHANNELS_LAST))
            posterior = Posterior(*moments.chunk(2, dim=1))
            noise = take_share(torch.randn((count, *posterior.mean.shape[1:]), generator=generator))
            decoded = decode_in_slices(vae, posterior.sample(noise))
        difference = decoded.float() - crops.pixels
        error = difference.abs()
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        motion = difference.diff(dim=2).abs()
        timing = (motion * crops.weight[:, :, 1:]).mean() if motion.numel() else motion.sum()
        mean, log_variance = posterior.mean.float(), posterior.log_variance.float()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        total = (error * crops.weight).mean() + EDGE_WEIGHT * edges + MOTION_WEIGHT * timing + KL_WEIGHT * kl
        total.backward()
        norm = optimiser.step(index)
        average.update(index)
        figures = {"l1": error.mean(), "edges": edges, "timing": timing, "kl": kl, "deviation": mean.std()}
        return {"norm": norm, **{key: float(value.detach()) for key, value in figures.items()}}

    run.train(step, {"network": trained, "optimiser": optimiser, "average": average})


def make_vae(config: VAEConfig, seed: int) -> VideoVAE:
    """An untrained VAE, initialised by its layers: diffusers' network, which has gradients."""
    network: nn.Module = build_diffusers_vae(config).to_empty(device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    for weight in network.parameters():
        if weight.ndim == 5:
            weight.data = weight.data.contiguous(memory_format=CHANNELS_LAST)
    return VideoVAE(network, config.scaling_factor)


def decode_in_slices(vae: VideoVAE, latents: Tensor) -> Tensor:
    """Frames of unscaled latents, in the slices of a render."""
    cache = None
    parts: list[Tensor] = []
    for part in torch.split(latents, decode_slices(latents.shape[2]), dim=2):
        frames, cache = vae.network.decoder(part, conv_cache=cache)
        parts.append(frames)
    return torch.cat(parts, dim=2)


def find_phase(phases: tuple[Phase, ...], index: int) -> Phase:
    for phase in phases:
        if index < phase.steps:
            return phase
        index -= phase.steps
    return phases[-1]


def crop_clips(pool: ClipPool, phase: Phase, r: np.random.Generator) -> Crops:
    """Crops of random clips at random places, half of them around the mouth."""
    clips, frames, height, width = pool.frames.shape[:4]
    pixels = np.empty((phase.clips, phase.frames, phase.side, phase.side, 3), np.float32)
    weight = np.ones((phase.clips, phase.frames, phase.side, phase.side), np.float32)
    for row in range(phase.clips):
        clip, first = int(r.integers(clips)), int(r.integers(frames - phase.frames + 1))
        span = slice(first, first + phase.frames)
        boxes = pool.mouths[clip, span]
        spare = np.array((width, height)) - phase.side
        left, top = (int(value) for value in r.integers(0, spare + 1))
        if r.random() < MOUTH_CROPS:
            middle = (boxes[0, :2] + boxes[0, 2:]) // 2 - phase.side // 2
            left, top = (int(value) for value in (middle + r.integers(-6, 7, 2)).clip(0, spare))
        pixels[row] = pool.frames[clip, span, top : top + phase.side, left : left + phase.side]
        for frame, box in enumerate(boxes):
            x0, y0, x1, y1 = (max(0, int(v)) for v in box - np.int16((left, top, left, top)))
            weight[row, frame, y0:y1, x0:x1] = phase.mouth_weight
    pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 1)) / 127.5 - 1
    return Crops(torch.from_numpy(pixels), torch.from_numpy(weight / weight.mean())[:, None])
