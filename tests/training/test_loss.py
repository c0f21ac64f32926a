"""The training loss: its golden is in tests/golden; here, that it can be learned from."""

from __future__ import annotations

import torch
from torch import nn

from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import NANO
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from training.loss import Batch, drawn, velocity_loss


def networks() -> tuple[Hallo3Transformer, ReferenceNetwork]:
    """NANO's two, ready to learn."""
    latent = NANO.segment.shape.latent
    made = Hallo3Transformer(NANO, Layers()), ReferenceNetwork(NANO.trunk, latent, Layers())
    for name, network in zip(("main", "reference"), made, strict=True):
        network.load_state_dict(make_random_state(network, name))
    return made


def batch(samples: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    trunk, audio, grid = NANO.trunk, NANO.audio, NANO.segment.shape.latent

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(samples, *shape, generator=generator)

    known = normal(trunk.latent_channels, 1, grid.height, grid.width)
    return Batch(
        latents=normal(trunk.latent_channels, *grid),
        image_latents=nn.functional.pad(known, (0, 0, 0, 0, 0, grid.frames - 1)),
        face_latents=normal(trunk.latent_channels, 1, grid.height, grid.width),
        windows=normal(NANO.segment.frames, audio.window, audio.layers, audio.channels),
        face_embedding=normal(NANO.face.embedding_dim),
        prompt_embeds=normal(trunk.text_tokens, trunk.text_dim),
    )


def test_samples_do_not_know_each_other() -> None:
    """A batch of three is each of its samples alone: nobody gets another one's portrait or speech."""
    dit, reference = networks()
    whole, draw = batch(3), drawn(batch(3).latents, torch.Generator().manual_seed(1))
    together = velocity_loss(dit, reference, whole, draw).per_sample
    for index in range(3):
        one = slice(index, index + 1)
        alone = Batch(**{name: getattr(whole, name)[one] for name in Batch.__slots__})
        part = type(draw)(table_index=draw.table_index[one], noise=draw.noise[one])
        torch.testing.assert_close(velocity_loss(dit, reference, alone, part).per_sample, together[one])


def test_gradients_reach_both_networks() -> None:
    dit, reference = networks()
    loss = velocity_loss(dit, reference, batch(2), drawn(batch(2).latents, torch.Generator().manual_seed(2)))
    loss.per_sample.mean().backward()
    silent = [name for name, p in dit.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert [name for name in silent if "pos_embedding" not in name] == []
    heard = [name for name, p in reference.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert any(name.startswith("transformer_blocks.0.attn1") for name in heard)
    assert not any(name.startswith(("norm_out", "proj_out")) for name in heard)  # never computed


def test_a_few_steps_make_it_smaller() -> None:
    dit, reference = networks()
    given, draw = batch(2), drawn(batch(2).latents, torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam([*dit.parameters(), *reference.parameters()], lr=3e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = velocity_loss(dit, reference, given, draw).per_sample.mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
