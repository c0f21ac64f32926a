"""Clips become the windows of a render, and batches of the transformer's stage."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from hallo3.config import BUILT_IN
from hallo3.segments import SegmentPlan
from hallo3.speech.features import Speech, read_from_memory
from training.clips import Clips, feature_rows, make_windows
from training.diffusion import BATCH_SIZE, BatchSampler, Networks, tokenize_prompts
from training.loss import draw_noise, velocity_loss

STEPS, COUNT = 40, 32
PROMPTS = ["", "a person", "in warm light", "a person in dim light"] * (COUNT // 4)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(BUILT_IN, 0)


@pytest.fixture(scope="module")
def sampler() -> BatchSampler:
    """Clips without zeros."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"latents": (16, 9, 8, 8), "image": (2, 16, 8, 8), "face": (16, 8, 8)}
    sizes |= {"embedding": (512,), "rows": (37, 3, 48), "mouth": (8, 8)}
    tensors = {k: torch.rand(COUNT, *size, generator=generator).half() + 0.5 for k, size in sizes.items()}
    clips = Clips({**tensors, "first": torch.zeros(COUNT).half()}, PROMPTS)
    return BatchSampler(clips, BUILT_IN, tokenize_prompts(PROMPTS, BUILT_IN), 0)


def share_dropped(values: list[Tensor]) -> float:
    """Share of samples that are zero; asserts that none is partly zero."""
    zero = torch.cat(values).flatten(1) == 0
    assert torch.equal(zero.all(dim=1), zero.any(dim=1))
    return float(zero.all(dim=1).float().mean())


def test_conditions_are_dropped_whole(sampler: BatchSampler, networks: Networks) -> None:
    with torch.no_grad():
        batches = [sampler.draw_batch(step, networks.text)[0] for step in range(STEPS)]
    assert 0.10 < share_dropped([b.image_latents[:, :, 0] for b in batches]) < 0.20
    assert 0.02 < share_dropped([b.face_latents for b in batches]) < 0.09
    assert 0.02 < share_dropped([b.windows for b in batches]) < 0.09
    assert all(bool((b.image_latents[:, :, 1:] == 0).all()) for b in batches)
    # a quarter has no prompt; a tenth of the quarter without a light is dropped
    assert 0.25 < share_dropped([b.prompt_embeds for b in batches]) < 0.33


def test_the_step_decides_the_batch(sampler: BatchSampler, networks: Networks) -> None:
    one, other = (sampler.draw_batch(3, networks.text) for _ in range(2))
    assert torch.equal(one[0].latents, other[0].latents)
    assert one[2].initial_seed() == other[2].initial_seed()


def test_every_network_trains_and_the_embedding_is_shared(sampler: BatchSampler, networks: Networks) -> None:
    batch, weight, generator = sampler.draw_batch(0, networks.text)
    draw = draw_noise(batch.latents, generator)
    pair = networks.transformer, networks.reference
    loss = velocity_loss(*pair, batch, draw, weight, reference_reads_text=False)
    assert loss.per_sample.shape == (BATCH_SIZE,)
    loss.per_sample.mean().backward()
    for network in (networks.transformer, networks.reference, networks.text):
        assert any(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in network.parameters())
    assert networks.text.encoder.embed_tokens.weight is networks.text.shared.weight


def test_rows_become_the_windows_of_a_render() -> None:
    plan = SegmentPlan(70, BUILT_IN.segment)
    features = torch.randn(plan.padded, 3, 4, generator=torch.Generator().manual_seed(0))
    speech = Speech(read_from_memory(features), plan, 5)
    for segment in plan:
        index = segment.index
        rows = feature_rows(features, tuple(range(31 * index - 2, 31 * index + 31)), 5)
        if max(segment.slots) < plan.padded - 1:
            windows = make_windows(rows[None], torch.tensor([float(index == 0)]), 5, 2)
            assert torch.equal(windows, speech.segment(index))
