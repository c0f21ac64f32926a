"""The transformer's stage: transformer, reference network and text encoder train together on encoded clips.

The paper trains in two stages, identity first, then speech (facts 15). From random weights, at this size,
one stage for both costs half. Dropout rates, noise on motion frames and the loss are the paper's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from hallo3.config import TEXT_ENCODERS, Hallo3Config
from hallo3.geometry import PixelBox
from hallo3.model.embeddings import rotary_tables
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork, Trunk
from hallo3.noise import make_generator
from hallo3.speakers import make_speaker_masks
from hallo3.text_encoder import WordTokenizer, build_t5

from .clips import Clips, make_windows, normalize_weight
from .loss import Batch, Draw, draw_noise, velocity_loss
from .optim import Optimiser, WeightAverage
from .parallel import take_share
from .stage import CPU, Run

T = TypeVar("T", Batch, Draw)
NAME, START = "diffusion", "start"
BATCH_SIZE = 8
PAIR_BATCH_SHARE = 0.35
"""Batches of pictures with two people; a batch has one kind."""
DROP_TEXT, DROP_IMAGE, DROP_FACE, DROP_SPEECH = 0.1, 0.15, 0.05, 0.05
RENDERED_MOTION_SHARE = 0.6
"""Samples whose motion frames have been through the VAE."""
MOUTH_WEIGHT = 16.0
NOISIEST_SHARE = 0.3
"""Samples from the noisiest fifth of the levels, on top of uniform ones."""
INITIAL_GATE = 0.3
"""Bias of the adaptive norms' gates: from random weights, closed gates train too slowly."""
MUON_RATE, ADAMW_RATE = 0.01, 2e-3
ADAMW_LAYERS = (
    *("patch_embed", "proj_out", "time_embedding", ".linear."),
    *("shared", "relative_attention_bias", "conv1"),
)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention in plain products: on a CPU its gradients take half the time of fused ones."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.softmax(dim=-1) @ v


class Networks(nn.Module):
    def __init__(self, config: Hallo3Config, seed: int) -> None:
        super().__init__()
        latent = config.segment.shape.latent
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = Layers(attention=attend)
            self.transformer = Hallo3Transformer(config, layers)
            self.reference = ReferenceNetwork(config.trunk, latent, layers)
            self.text: Any = build_t5(TEXT_ENCODERS["built-in"]).to_empty(device="cpu")
            self.text.encoder.embed_tokens.weight = self.text.shared.weight
            _initialize_text(self.text)
            for trunk in (self.transformer, self.reference):
                _initialize_trunk(trunk)
        self.requires_grad_(True)


def _initialize_trunk(trunk: Trunk) -> None:
    """Set what must not start at torch's defaults: position table, gates, output layer."""
    width, grid = trunk.config.width, trunk.latent
    table = trunk.patch_embed.pos_embedding
    tables = rotary_tables(trunk.config, grid)
    per_axis = torch.cat((tables.cos, tables.sin), dim=1)
    positions = per_axis @ torch.randn(per_axis.shape[1], width) / per_axis.shape[1] ** 0.5
    with torch.no_grad():
        table.normal_(0, 0.02)
        table[0, trunk.config.text_tokens :] = 0.3 * positions
        for block in trunk.transformer_blocks:
            for norm in (cast(Any, block).norm1, cast(Any, block).norm2):
                norm.linear.weight.zero_()
                norm.linear.bias.zero_().view(6, -1)[[2, 5]] = INITIAL_GATE
        cast(Any, trunk.norm_out).linear.weight.zero_()
        cast(Any, trunk.norm_out).linear.bias.zero_()
        cast(Any, trunk.proj_out).weight.mul_(0.1)


def _initialize_text(t5: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in t5.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1.0 if "shared" in name else weight.shape[-1] ** -0.5)
            else:
                weight.fill_(1)


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """Batches that depend on seed and step only; ``tokens`` are the clips' prompts."""

    clips: Clips
    config: Hallo3Config
    tokens: Tensor
    seed: int

    def draw_batch(self, step: int, text: nn.Module) -> tuple[Batch, Tensor, torch.Generator]:
        """A batch with dropped conditions, the latents' weights, and the generator for the noise."""
        r = make_generator(f"{self.seed}|{NAME}|{step}")
        pair = bool(r.random() < PAIR_BATCH_SHARE)
        chosen = torch.nonzero(self.clips.tensors["people"] == (2 if pair else 1))[:, 0]
        picked = chosen[torch.from_numpy(r.integers(0, len(chosen), BATCH_SIZE))]
        device = next(text.parameters()).device
        clips = {key: values[picked].float().to(device) for key, values in self.clips.tensors.items()}
        config = self.config
        which = torch.from_numpy((r.random(BATCH_SIZE) < RENDERED_MOTION_SHARE).astype(np.int64))
        image = clips["image"][torch.arange(BATCH_SIZE), which]
        image_latents = torch.zeros_like(clips["latents"])
        image_latents[:, :, 0] = image * _draw_keep_mask(r, DROP_IMAGE, 4).to(device)
        windows = make_windows(
            clips["rows"], clips["first"], config.audio.window, config.segment.motion_frames
        )
        windows = windows * _draw_keep_mask(r, DROP_SPEECH, 6).to(device)
        ids = self.tokens[picked].to(device)
        embeds = text(ids)
        prompted = torch.tensor([bool(self.clips.prompts[i]) for i in picked.tolist()])
        dropped = torch.from_numpy(r.random(BATCH_SIZE) < DROP_TEXT)
        embeds = embeds * (prompted & ~dropped).to(embeds)[:, None, None]
        batch = Batch(
            latents=clips["latents"],
            image_latents=image_latents,
            face_latents=clips["face"][:, :, None] * _draw_keep_mask(r, DROP_FACE, 5).to(device),
            windows=windows if pair else windows[:, 0],
            face_embedding=clips["embedding"] if pair else clips["embedding"][:, 0],
            prompt_embeds=embeds,
            masks=self._make_masks(clips["heads"]) if pair else None,
        )
        weight = normalize_weight(1 + (MOUTH_WEIGHT - 1) * clips["mouth"], batch.latents)
        return batch, weight, torch.Generator().manual_seed(int(r.integers(2**31)))

    def _make_masks(self, heads: Tensor) -> Tensor:
        """Masks [B, P, 1, rows, columns] of heads [B, P, 4] in pixels."""
        shape = self.config.segment.shape.latent
        people = [[PixelBox(*box) for box in each.tolist()] for each in heads]
        return torch.stack([make_speaker_masks(each, shape) for each in people]).to(heads.device)


def _draw_keep_mask(r: np.random.Generator, drop_rate: float, dims: int) -> Tensor:
    shape = (BATCH_SIZE, *([1] * (dims - 1)))
    return torch.from_numpy((r.random(BATCH_SIZE) >= drop_rate).astype(np.float32)).reshape(shape)


def train_diffusion(
    folder: Path, seed: int, config: Hallo3Config, clips: Clips, steps: int, device: torch.device = CPU
) -> None:
    """Train the three networks; the averaged weights are ``Run.state("average")``."""
    run = Run(folder=folder, name=NAME, steps=steps, seed=seed, device=device)
    networks = Networks(config, seed).to(device)
    start = replace(run, name=START)
    if start.checkpoint.exists() and not run.checkpoint.exists():
        networks.load_state_dict(start.state("networks"))
    optimiser = Optimiser(
        networks,
        steps,
        muon=MUON_RATE,
        adamw=ADAMW_RATE,
        adamw_layers=ADAMW_LAYERS,
        warmup=50,
        cooldown=0.6,
    )
    average = WeightAverage(networks, 0.998)
    sampler = BatchSampler(clips, config, tokenize_prompts(clips.prompts, config), seed)

    def step(index: int) -> dict[str, float]:
        batch, weight, generator = sampler.draw_batch(index, networks.text)
        draw = draw_noise(batch.latents, generator, NOISIEST_SHARE)
        batch, draw, weight = _share(batch), _share(draw), take_share(weight)
        with torch.autocast(device.type, torch.bfloat16):
            loss = velocity_loss(
                networks.transformer, networks.reference, batch, draw, weight, reference_reads_text=False
            )
        total = loss.per_sample.mean()
        total.backward()
        norm = optimiser.step(index)
        average.update(index)
        return {"loss": float(total.detach()), "norm": norm}

    run.train(step, {"networks": networks, "optimiser": optimiser, "average": average})


def _share(values: T) -> T:
    """Of a batch or a draw, what this process computes."""
    fields = {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
    shares = {key: take_share(each) for key, each in fields.items() if each is not None}
    return replace(values, **shares)


def tokenize_prompts(prompts: list[str], config: Hallo3Config) -> Tensor:
    """Token ids [N, text_tokens]."""
    tokenizer = WordTokenizer(TEXT_ENCODERS["built-in"]["vocab_size"])
    return torch.cat([tokenizer(prompt, config.trunk.text_tokens) for prompt in prompts])
