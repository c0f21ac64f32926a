"""The transformer's stage: both networks and the text encoder learn together on encoded clips.

The paper trains in two stages, first who, then what is said (facts 15); from nothing, at this size, both at
once costs half. What is dropped, how often, the noise on motion frames and the loss are the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hallo3.config import TEXT_ENCODERS, Hallo3Config
from hallo3.model.embeddings import rotary_tables
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork, Trunk
from hallo3.noise import make_generator
from hallo3.text_encoder import WordTokenizer, build_t5

from .clips import Clips, spread, windows_of
from .loss import Batch, drawn, velocity_loss
from .motion import LIGHTS
from .optim import Average, Optimiser
from .stage import CPU, Run

NAME = "diffusion"
BATCH = 16
DROP_TEXT, DROP_IMAGE, DROP_FACE, DROP_SPEECH = 0.1, 0.15, 0.05, 0.05
LEFT_SHARE = 0.6
"""Motion frames as a segment before would have left them, against true ones."""
MOUTH_WEIGHT = 3.0
GATE = 0.3
"""Where the gates of the adaptive norms begin: closed ones learn too slowly from nothing."""
MUON, ADAMW = 0.01, 2e-3
ENDS = ("patch_embed", "proj_out", "time_embedding", ".linear.", "shared", "relative_attention_bias", "conv1")


class Networks(nn.Module):
    """The three that learn together."""

    def __init__(self, config: Hallo3Config, seed: int) -> None:
        super().__init__()
        latent = config.segment.shape.latent
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.transformer = Hallo3Transformer(config, Layers())
            self.reference = ReferenceNetwork(config.trunk, latent, Layers())
            self.text: Any = build_t5(TEXT_ENCODERS["built-in"]).to_empty(device="cpu")
            self.text.encoder.embed_tokens.weight = self.text.shared.weight
            _begin_text(self.text)
            for trunk in (self.transformer, self.reference):
                _begin(trunk)
        self.requires_grad_(True)


def _begin(trunk: Trunk) -> None:
    """Layers keep torch's own first values; what must not start at random starts here."""
    width, grid = trunk.config.width, trunk.latent
    table = trunk.patch_embed.pos_embedding
    tables = rotary_tables(trunk.config, grid)
    per_axis = torch.cat((tables.cos, tables.sin), dim=1)
    spread_out = per_axis @ torch.randn(per_axis.shape[1], width) / per_axis.shape[1] ** 0.5
    with torch.no_grad():
        table.normal_(0, 0.02)
        table[0, trunk.config.text_tokens :] = 0.3 * spread_out
        for block in trunk.transformer_blocks:
            for norm in (cast(Any, block).norm1, cast(Any, block).norm2):
                norm.linear.weight.zero_()
                norm.linear.bias.zero_().view(6, -1)[[2, 5]] = GATE
        cast(Any, trunk.norm_out).linear.weight.zero_()
        cast(Any, trunk.norm_out).linear.bias.zero_()
        cast(Any, trunk.proj_out).weight.mul_(0.1)


def _begin_text(t5: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in t5.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1.0 if "shared" in name else weight.shape[-1] ** -0.5)
            else:
                weight.fill_(1)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Batches decided by seed and step alone; ``tokens`` are the clips' prompts."""

    clips: Clips
    config: Hallo3Config
    tokens: Tensor
    seed: int

    def batch(self, step: int, text: nn.Module) -> tuple[Batch, Tensor, torch.Generator]:
        """A batch with its dropouts, the latents' weights, and the generator for the rest."""
        r = make_generator(f"{self.seed}|{NAME}|{step}")
        picked = torch.from_numpy(r.integers(0, len(self.clips), BATCH))
        device = next(text.parameters()).device
        kept = {key: values[picked].float().to(device) for key, values in self.clips.tensors.items()}
        config = self.config
        which = torch.from_numpy((r.random(BATCH) < LEFT_SHARE).astype(np.int64))
        image = kept["image"][torch.arange(BATCH), which]
        image_latents = torch.zeros_like(kept["latents"])
        image_latents[:, :, 0] = image * _kept(r, DROP_IMAGE, 4).to(device)
        windows = windows_of(kept["rows"], kept["first"], config.audio.window, config.segment.motion_frames)
        ids = self.tokens[picked].to(device)
        embeds = cast(Any, text)(input_ids=ids).last_hidden_state
        spoken = torch.tensor([bool(self.clips.prompts[i]) for i in picked.tolist()])
        lit = torch.tensor([bool(LIGHTS.keys() & self.clips.prompts[i].split()) for i in picked.tolist()])
        dropped = torch.from_numpy(r.random(BATCH) < DROP_TEXT) & ~lit
        embeds = embeds * (spoken & ~dropped).to(embeds)[:, None, None]
        batch = Batch(
            latents=kept["latents"],
            image_latents=image_latents,
            face_latents=kept["face"][:, :, None] * _kept(r, DROP_FACE, 5).to(device),
            windows=windows * _kept(r, DROP_SPEECH, 5).to(device),
            face_embedding=kept["embedding"],
            prompt_embeds=embeds,
        )
        weight = spread(1 + (MOUTH_WEIGHT - 1) * kept["mouth"], batch.latents)
        return batch, weight, torch.Generator().manual_seed(int(r.integers(2**31)))


def _kept(r: np.random.Generator, rate: float, dims: int) -> Tensor:
    shape = (BATCH, *([1] * (dims - 1)))
    return torch.from_numpy((r.random(BATCH) >= rate).astype(np.float32)).reshape(shape)


def train_diffusion(
    folder: Path, seed: int, config: Hallo3Config, clips: Clips, steps: int, device: torch.device = CPU
) -> None:
    """The whole stage; its averaged weights are ``Run.state("average")``."""
    run = Run(folder=folder, name=NAME, steps=steps, seed=seed, device=device)
    networks = Networks(config, seed).to(device)
    optimiser = Optimiser(networks, steps, muon=MUON, adamw=ADAMW, ends=ENDS, warmup=50, cooldown=0.6)
    average = Average(networks, 0.998)
    lessons = Lessons(clips, config, tokens_of(clips.prompts, config), seed)

    def step(index: int) -> dict[str, float]:
        batch, weight, chance = lessons.batch(index, networks.text)
        draw = drawn(batch.latents, chance)
        with torch.autocast(device.type, torch.bfloat16):
            loss = velocity_loss(
                networks.transformer, networks.reference, batch, draw, weight, reference_reads=False
            )
        total = loss.per_sample.mean()
        total.backward()
        norm = optimiser.step(index)
        average.update(index)
        return {"loss": float(total.detach()), "norm": norm}

    run.train(step, {"networks": networks, "optimiser": optimiser, "average": average})


def tokens_of(prompts: list[str], config: Hallo3Config) -> Tensor:
    """The prompts as token ids [N, text_tokens]."""
    tokenizer = WordTokenizer(TEXT_ENCODERS["built-in"]["vocab_size"])
    return torch.cat([tokenizer(prompt, config.trunk.text_tokens) for prompt in prompts])
