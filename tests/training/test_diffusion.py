"""Clips become the windows of a render, and batches of the transformer's stage."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from hallo3.built_in import FOLDER
from hallo3.checkpoints.locate import ModelFolder
from hallo3.config import BUILT_IN
from hallo3.segments import SegmentPlan
from hallo3.speech.features import Speech, read_from_memory
from training.clips import Clips, feature_rows, make_windows
from training.diffusion import BATCH_SIZE, START, BatchSampler, Networks, tokenize_prompts
from training.loss import draw_noise, velocity_loss
from training.scenes import MAX_SPEAKERS
from training.speech_encoder import load_speech_encoder
from training.stage import Run
from training.start import begin_run
from training.vae import load_vae

STEPS, COUNT = 40, 32
PROMPTS = ["", "", "a person", "a person", *["in warm light"] * 2, *["in dim light"] * 2] * (COUNT // 8)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(BUILT_IN, 0)


@pytest.fixture(scope="module")
def sampler() -> BatchSampler:
    """Clips without zeros."""
    generator = torch.Generator().manual_seed(0)
    grid = BUILT_IN.segment.shape.latent
    frame = grid.height, grid.width
    sizes = {"latents": (16, grid.frames, *frame), "image": (2, 16, *frame), "face": (16, *frame)}
    sizes |= {"embedding": (MAX_SPEAKERS, BUILT_IN.face.embedding_dim), "mouth": frame}
    sizes["rows"] = MAX_SPEAKERS, BUILT_IN.segment.frames + BUILT_IN.audio.window - 1, 3, 48
    tensors = {k: torch.rand(COUNT, *size, generator=generator).half() + 0.5 for k, size in sizes.items()}
    tensors["heads"] = torch.tensor([[[20, 20, 60, 70], [80, 20, 120, 70]]] * COUNT).half()
    tensors["people"] = torch.tensor([1.0, 2.0] * (COUNT // 2)).half()
    clips = Clips({**tensors, "first": torch.zeros(COUNT).half()}, PROMPTS)
    return BatchSampler(clips, BUILT_IN, tokenize_prompts(PROMPTS, BUILT_IN), 0)


def share_dropped(values: list[Tensor]) -> float:
    """Share of samples that are zero; asserts that none is partly zero."""
    zeros = [value.flatten(1) == 0 for value in values]
    assert all(torch.equal(zero.all(dim=1), zero.any(dim=1)) for zero in zeros)
    return float(torch.cat([zero.all(dim=1) for zero in zeros]).float().mean())


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


def test_a_run_begins_with_a_finished_model(tmp_path: Path) -> None:
    begin_run(tmp_path, 0, FOLDER)
    begun = {
        "speech_encoder": load_speech_encoder(tmp_path).network.state_dict(),
        "vae": load_vae(tmp_path, 0, BUILT_IN.vae, tuned_decoder=True).network.state_dict(),
    }
    if (start := Run(folder=tmp_path, name=START, steps=0, seed=0)).checkpoint.exists():
        networks = start.state("networks")
        for part, prefix in (("transformer",) * 2, ("reference",) * 2, ("text_encoder", "text")):
            begun[part] = {key.removeprefix(f"{prefix}."): value for key, value in networks.items()}
    for part, state in begun.items():
        shipped = load_file(ModelFolder(FOLDER).own(part))
        assert all(torch.equal(state[key].half(), value) for key, value in shipped.items()), part
    with pytest.raises(FileExistsError, match="another folder"):
        begin_run(tmp_path, 0, FOLDER)


def test_rows_become_the_windows_of_a_render() -> None:
    plan = SegmentPlan(70, BUILT_IN.segment)
    features = torch.randn(plan.padded, 3, 4, generator=torch.Generator().manual_seed(0))
    speech = Speech(read_from_memory(features), plan, 5)
    for segment in plan:
        index = segment.index
        rows = feature_rows(features, tuple(range(31 * index - 2, 31 * index + 31)), 5)
        if max(segment.slots) < plan.padded - 1:
            windows = make_windows(rows[None, None], torch.tensor([float(index == 0)]), 5, 2)[:, 0]
            assert torch.equal(windows, speech.segment(index))
