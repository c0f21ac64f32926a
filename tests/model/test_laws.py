"""Prepared equals direct, on access equals prepared, batched equals sequential, sample equals batch."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallo3.errors import ShapeError
from hallo3.model.blocks import Hallo3Block
from hallo3.model.conditions import RunConditions, SegmentConditions, conditional
from hallo3.model.embeddings import rotary_tables, rotate
from hallo3.model.guidance import batched_branches, sequential_branches, single_branch
from hallo3.model.transformer import Hallo3Transformer
from hallo3.models import Models
from hallo3.noise import named_generator

STEPS = torch.tensor([999.0, 499.0])


def draw(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(named_generator(name).standard_normal(shape, dtype="float32"))


@pytest.fixture(scope="module")
def dit(nano: Models) -> Hallo3Transformer:
    with nano.transformer as network:
        return network


class Inputs:
    """Everything a forward pass needs, drawn."""

    def __init__(self, dit: Hallo3Transformer) -> None:
        trunk, grid = dit.config, dit.latent
        self.features = [
            draw(f"feature {i}", 1, grid.tokens_per_frame, trunk.width) for i in range(trunk.layers)
        ]
        self.face = draw("face", 1, dit.face_proj.proj.in_features)
        self.prompt = draw("prompt", 1, trunk.text_tokens, trunk.text_dim)
        self.windows = draw("windows", 1, *dit.window_shape)
        self.noisy = draw("noisy", 1, trunk.latent_channels, *grid)
        self.image = draw("image", 1, trunk.latent_channels, *grid)

    def prepare(self, dit: Hallo3Transformer, on_access: bool) -> tuple[RunConditions, SegmentConditions]:
        run = dit.prepare(self.features, self.face, self.prompt, STEPS, on_access=on_access)
        audio = dit.hear(self.windows, on_access=on_access)
        return run, SegmentConditions(audio=audio, image_latents=self.image)


@torch.inference_mode()
def test_on_access_equals_prepared_bit_for_bit(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    eager = batched_branches(dit, *inputs.prepare(dit, False))(inputs.noisy, 1)
    lazy = batched_branches(dit, *inputs.prepare(dit, True))(inputs.noisy, 1)
    assert torch.equal(eager, lazy)


@torch.inference_mode()
def test_batched_guidance_equals_sequential(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    prepared = inputs.prepare(dit, False)
    both = batched_branches(dit, *prepared)(inputs.noisy, 0)
    one_by_one = sequential_branches(dit, *prepared)(inputs.noisy, 0)
    assert torch.allclose(both, one_by_one, atol=1e-5)
    assert torch.equal(single_branch(dit, *prepared)(inputs.noisy, 0), one_by_one[1:])
    assert not torch.allclose(both[0], both[1], atol=1e-2)


@torch.inference_mode()
def test_prepared_equals_direct(dit: Hallo3Transformer) -> None:
    """The original's way: reference tokens run through the joint attention as part of the sequence,
    queries and all, face tokens are repeated for every frame, nothing is kept between steps."""
    inputs = Inputs(dit)
    prepared = single_branch(dit, *inputs.prepare(dit, False))(inputs.noisy, 1)
    assert torch.allclose(prepared, direct_forward(dit, inputs, STEPS[1:]), atol=1e-5)


def direct_forward(dit: Hallo3Transformer, inputs: Inputs, timestep: Tensor) -> Tensor:
    trunk, grid = dit.config, dit.latent
    rotary = rotary_tables(trunk, grid)
    text = dit.patch_embed.text(inputs.prompt)
    video = dit.patch_embed.video(inputs.noisy, inputs.image)
    time = dit.time_embedding(timestep, torch.float32)
    face = dit.face_proj(inputs.face).repeat(grid.frames, 1, 1)
    audio = dit.audio_proj(inputs.windows)[0]
    for block, feature in zip(dit.transformer_blocks, inputs.features, strict=True):
        block = cast(Hallo3Block, block)
        m = block.norm1.modulation(time)
        v, t = block.norm1(video, text, m)
        sequence = torch.cat((t, v, feature), dim=1)
        a = block.attn1
        q, k, value = (heads(linear(sequence), trunk.heads) for linear in (a.to_q, a.to_k, a.to_v))
        q, k = a.norm_q(q), a.norm_k(k)
        middle = slice(t.shape[1], t.shape[1] + v.shape[1])
        q[:, :, middle], k[:, :, middle] = rotate(q[:, :, middle], rotary), rotate(k[:, :, middle], rotary)
        weights = (q @ k.transpose(-1, -2) / trunk.head_dim**0.5).softmax(-1)
        out = a.to_out[0]((weights @ value).transpose(1, 2).flatten(-2))
        video = video + m[:, 2:3] * out[:, middle]
        text = text + m[:, 5:6] * out[:, : t.shape[1]]
        for attention, norm, tokens in (
            (block.attn_face, block.norm_face, face),
            (block.attn_audio, block.norm_audio, audio),
        ):
            frames = norm(video).reshape(grid.frames, grid.tokens_per_frame, -1)
            q = rotate(a.norm_q(heads(attention.to_q(frames), trunk.heads)), rotary.frame_0)
            k = a.norm_k(heads(attention.to_k(tokens), trunk.heads))
            mixed = F.scaled_dot_product_attention(q, k, heads(attention.to_v(tokens), trunk.heads))
            video = video + attention.to_out[0](mixed.transpose(1, 2).flatten(-2)).reshape(video.shape)
        video, text = block.feed_forward(video, text, block.modulation(time))
    return dit.head(video, dit.norm_out.modulation(time))


def heads(tokens: Tensor, count: int) -> Tensor:
    return tokens.unflatten(-1, (count, -1)).transpose(1, 2)


@torch.inference_mode()
def test_a_batch_of_timesteps_equals_one_by_one(dit: Hallo3Transformer) -> None:
    """Other hosts give every sample its own, even fractional, timestep."""
    inputs = Inputs(dit)
    run, segment = inputs.prepare(dit, False)
    heard = conditional(run, segment)
    timesteps = torch.tensor([999.0, 123.4])
    noisy = torch.cat((inputs.noisy, draw("other", *inputs.noisy.shape)))
    audio = tuple(type(kv)(*(side.repeat(2, 1, 1, 1) for side in kv)) for kv in heard.audio)
    pair = type(heard)(
        text=heard.text.repeat(2, 1, 1),
        reference=heard.reference,
        face=heard.face,
        audio=audio,
        rotary=heard.rotary,
    )
    together = dit(noisy, inputs.image.repeat(2, 1, 1, 1, 1), dit.modulate(timesteps, noisy), pair)
    for index in range(2):
        modulation = dit.modulate(timesteps[index : index + 1], noisy)
        alone = dit(noisy[index : index + 1], inputs.image, modulation, heard)
        assert torch.allclose(together[index], alone[0], atol=1e-5)


def test_another_grid_is_refused_by_name(dit: Hallo3Transformer) -> None:
    inputs = Inputs(dit)
    with pytest.raises(ShapeError, match="latent video"):
        dit.embed(inputs.noisy[..., :-2], inputs.image)
    with pytest.raises(ShapeError, match="image latents"):
        dit.embed(inputs.noisy, inputs.image[:, :, :1])


@torch.inference_mode()
def test_reference_features_are_what_enters_attention(nano: Models) -> None:
    """Read from the inside without the last block's attention; the text is zeros when none is given."""
    with nano.reference as network:
        latents = draw("portrait", 1, network.config.latent_channels, 1, *network.latent[1:])
        zeros = torch.zeros(1, network.config.text_tokens, network.config.text_dim)
        features = network.features(latents)
        assert len(features) == network.config.layers
        assert features[0].shape == (1, network.latent.tokens_per_frame, network.config.width)
        for given, default in zip(network.features(latents, zeros), features, strict=True):
            assert torch.equal(given, default)
