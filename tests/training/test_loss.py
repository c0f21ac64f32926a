"""The training loss; ``tests/golden`` compares it with the original's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import NANO
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from training.loss import Batch, Draw, draw_noise, velocity_loss


def make_networks() -> tuple[Hallo3Transformer, ReferenceNetwork]:
    latent = NANO.segment.shape.latent
    networks = Hallo3Transformer(NANO, Layers()), ReferenceNetwork(NANO.trunk, latent, Layers())
    for name, network in zip(("main", "reference"), networks, strict=True):
        network.load_state_dict(make_random_state(network, name))
    return networks


def make_batch(samples: int, speakers: int = 1) -> tuple[Batch, Draw]:
    generator = torch.Generator().manual_seed(0)
    trunk, audio, grid = NANO.trunk, NANO.audio, NANO.segment.shape.latent

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(samples, *shape, generator=generator)

    image = normal(trunk.latent_channels, 1, grid.height, grid.width)
    batch = Batch(
        latents=normal(trunk.latent_channels, *grid),
        image_latents=nn.functional.pad(image, (0, 0, 0, 0, 0, grid.frames - 1)),
        face_latents=normal(trunk.latent_channels, 1, grid.height, grid.width),
        windows=normal(NANO.segment.frames, audio.window, audio.layers, audio.channels),
        face_embedding=normal(NANO.face.embedding_dim),
        prompt_embeds=normal(trunk.text_tokens, trunk.text_dim),
    )
    if speakers > 1:
        batch = replace(
            batch,
            windows=normal(speakers, *batch.windows.shape[1:]),
            face_embedding=normal(speakers, NANO.face.embedding_dim),
            masks=normal(speakers, 1, grid.rows, grid.columns).softmax(dim=1),
        )
    return batch, draw_noise(batch.latents, torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("speakers", [1, 2])
def test_samples_are_independent(speakers: int) -> None:
    dit, reference = make_networks()
    batch, draw = make_batch(3, speakers)
    together = velocity_loss(dit, reference, batch, draw).per_sample
    for index in range(3):
        one = slice(index, index + 1)
        parts: dict[str, Any] = {name: getattr(batch, name) for name in Batch.__slots__}
        alone = Batch(**{name: part[one] for name, part in parts.items() if part is not None})
        part = Draw(table_index=draw.table_index[one], noise=draw.noise[one])
        torch.testing.assert_close(velocity_loss(dit, reference, alone, part).per_sample, together[one])


def test_a_few_steps_lower_it_and_gradients_reach_both_networks() -> None:
    dit, reference = make_networks()
    batch, draw = make_batch(2)
    optimizer = torch.optim.Adam([*dit.parameters(), *reference.parameters()], lr=3e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = velocity_loss(dit, reference, batch, draw).per_sample.mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    trained = {
        network: {name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())}
        for network in (dit, reference)
    }
    assert all(name in trained[dit] or "pos_embedding" in name for name, _ in dit.named_parameters())
    assert any(name.startswith("transformer_blocks.0.attn1") for name in trained[reference])
    # the reference network's output is never computed
    assert not any(name.startswith(("norm_out", "proj_out")) for name in trained[reference])
