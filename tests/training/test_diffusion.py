"""Batches of the transformer's stage: what is dropped is dropped whole, and lights keep their words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from hallo3.config import BUILT_IN
from training.clips import Clips
from training.diffusion import BATCH, Lessons, Networks, tokens_of
from training.loss import Batch, drawn, velocity_loss

STEPS, COUNT = 40, 32
PROMPTS = ["", "a person", "in warm light", "a person in dim light"] * (COUNT // 4)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(BUILT_IN, 0)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    """Clips of which no number is zero."""
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "latents": (16, 9, 8, 8),
        "image": (2, 16, 8, 8),
        "face": (16, 8, 8),
        "embedding": (512,),
        "rows": (37, 3, 48),
        "mouth": (8, 8),
    }
    tensors = {k: torch.rand(COUNT, *size, generator=generator).half() + 0.5 for k, size in sizes.items()}
    clips = Clips({**tensors, "first": torch.zeros(COUNT).half()}, PROMPTS)
    return Lessons(clips, BUILT_IN, tokens_of(PROMPTS, BUILT_IN), 0)


@pytest.fixture(scope="module")
def batches(lessons: Lessons, networks: Networks) -> list[Batch]:
    with torch.no_grad():
        return [lessons.batch(step, networks.text)[0] for step in range(STEPS)]


def share_dropped(values: list[Tensor]) -> float:
    """Share of samples that are all zero; none is zero in part."""
    flat = torch.cat(values).flatten(1)
    zero = flat == 0
    assert torch.equal(zero.all(dim=1), zero.any(dim=1))
    return float(zero.all(dim=1).float().mean())


def test_dropouts_take_whole_samples(batches: list[Batch]) -> None:
    assert 0.10 < share_dropped([b.image_latents[:, :, 0] for b in batches]) < 0.20
    assert 0.02 < share_dropped([b.face_latents for b in batches]) < 0.09
    assert 0.02 < share_dropped([b.windows for b in batches]) < 0.09
    assert all(bool((b.image_latents[:, :, 1:] == 0).all()) for b in batches)


def test_no_text_is_zeros_and_lights_keep_theirs(batches: list[Batch]) -> None:
    silent = share_dropped([b.prompt_embeds for b in batches])
    assert 0.25 < silent < 0.33  # a quarter has no prompt, a tenth of a quarter loses one that names no light


def test_the_same_step_is_the_same_batch(lessons: Lessons, networks: Networks) -> None:
    one, other = (lessons.batch(3, networks.text) for _ in range(2))
    assert torch.equal(one[0].latents, other[0].latents)
    assert one[2].initial_seed() == other[2].initial_seed()


def test_every_network_learns_from_a_step(lessons: Lessons, networks: Networks) -> None:
    batch, weight, chance = lessons.batch(0, networks.text)
    draw = drawn(batch.latents, chance)
    loss = velocity_loss(networks.transformer, networks.reference, batch, draw, weight, reference_reads=False)
    assert loss.per_sample.shape == (BATCH,)
    loss.per_sample.mean().backward()
    for part in (networks.transformer, networks.reference, networks.text):
        assert any(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in part.parameters())
    networks.zero_grad(set_to_none=True)


def test_one_embedding_serves_the_text_encoder(networks: Networks) -> None:
    """A file keeps it once, under one of its names."""
    assert networks.text.encoder.embed_tokens.weight is networks.text.shared.weight
