"""Several speakers in one picture: each one's audio and face count where its mask is."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import NANO
from hallo3.errors import ShapeError
from hallo3.model.attention import KV, SpeakersKV
from hallo3.model.guidance import GUIDANCE_PASSES, single_branch
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, RunConditions, SegmentConditions
from hallo3.models import Models
from support.transformer_inputs import STEPS, Inputs, draw


@pytest.fixture(scope="module")
def dit(nano: Models) -> Hallo3Transformer:
    with nano.transformer as network:
        return network


def masks(dit: Hallo3Transformer, count: int, frames: int = 1) -> Tensor:
    """Soft masks that add up to 1."""
    return draw("masks", 1, count, frames, dit.latent.rows, dit.latent.columns).softmax(dim=1)


class Speakers(Inputs):
    """Inputs of several speakers."""

    def __init__(self, dit: Hallo3Transformer, shown: Tensor, same: bool = False) -> None:
        super().__init__(dit)
        count = shown.shape[1]
        self.shown, order = shown, [0 if same else i for i in range(count)]
        size = cast(int, dit.face_proj.proj.in_features)
        self.faces = torch.stack([draw(f"face {i}", 1, size) for i in order], dim=1)
        self.voices = torch.stack([draw(f"voice {i}", *self.windows.shape) for i in order], dim=1)

    def only(self, index: int) -> Inputs:
        self.face, self.windows = self.faces[:, index], self.voices[:, index]
        return self

    def prepare_speakers(
        self, dit: Hallo3Transformer, order: Sequence[int] = (0, 1)
    ) -> tuple[RunConditions, SegmentConditions]:
        chosen, shown = list(order), self.shown[:, list(order)]
        run = dit.prepare(self.features, self.faces[:, chosen], STEPS, masks=shown)
        audio = dit.encode_audio(self.voices[:, chosen], masks=run.masks)
        text = dit.encode_text(self.prompt)
        return run, SegmentConditions(text=text, audio=audio, image_latents=self.image)


@torch.inference_mode()
def test_one_mask_over_everything_is_one_speaker_bit_for_bit(dit: Hallo3Transformer) -> None:
    """Also beside a speaker who is nowhere."""
    one = torch.ones(1, 1, 1, dit.latent.rows, dit.latent.columns)
    alone = Speakers(dit, one)
    expected = single_branch(dit, *alone.only(0).prepare(dit))(alone.noisy, 0)
    run, segment = alone.prepare_speakers(dit, [0])
    assert torch.equal(single_branch(dit, run, segment)(alone.noisy, 0), expected)
    nowhere = Speakers(dit, torch.cat((one, torch.zeros_like(one)), dim=1))
    assert torch.equal(single_branch(dit, *nowhere.prepare_speakers(dit))(alone.noisy, 0), expected)


@torch.inference_mode()
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("moving", [False, True])
def test_speakers_who_say_the_same_are_one_speaker(dit: Hallo3Transformer, count: int, moving: bool) -> None:
    inputs = Speakers(dit, masks(dit, count, dit.latent.frames if moving else 1), same=True)
    several = single_branch(dit, *inputs.prepare_speakers(dit, range(count)))(inputs.noisy, 0)
    alone = single_branch(dit, *inputs.only(0).prepare(dit))(inputs.noisy, 0)
    torch.testing.assert_close(several, alone, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("passes", GUIDANCE_PASSES)
def test_the_order_of_speakers_does_not_matter_but_who_says_what_does(
    dit: Hallo3Transformer, passes: str
) -> None:
    inputs = Speakers(dit, masks(dit, 2))
    predict = GUIDANCE_PASSES[passes]
    expected = predict(dit, *inputs.prepare_speakers(dit))(inputs.noisy, 0)
    swapped = predict(dit, *inputs.prepare_speakers(dit, [1, 0]))(inputs.noisy, 0)
    torch.testing.assert_close(swapped, expected, atol=1e-5, rtol=0)
    other = GUIDANCE_PASSES["sequential"](dit, *inputs.prepare_speakers(dit))(inputs.noisy, 0)
    torch.testing.assert_close(other, expected, atol=1e-5, rtol=0)
    inputs.voices = inputs.voices.flip(1)
    crossed = predict(dit, *inputs.prepare_speakers(dit))(inputs.noisy, 0)
    assert torch.allclose(crossed[0], expected[0], atol=1e-5)
    assert not torch.allclose(crossed[1], expected[1], atol=1e-3)


@torch.inference_mode()
def test_a_batch_has_masks_of_its_own(dit: Hallo3Transformer) -> None:
    """As in training: one sample with two speakers, one with one."""
    two = masks(dit, 2)
    one = torch.stack((torch.ones_like(two[:, 0]), torch.zeros_like(two[:, 0])), dim=1)
    inputs = Speakers(dit, torch.cat((two, one)))
    samples = 2
    modulation = dit.modulate(STEPS[:1], inputs.noisy)
    features = [each.repeat(samples, 1, 1) for each in inputs.features]
    faces, voices = inputs.faces.repeat(samples, 1, 1), inputs.voices.repeat(samples, 1, 1, 1, 1, 1)
    prompt = inputs.prompt.repeat(samples, 1, 1)
    noisy, image = (each.repeat(samples, 1, 1, 1, 1) for each in (inputs.noisy, inputs.image))
    conditions = dit.conditions(features, faces, prompt, voices, masks=inputs.shown)
    together = dit(noisy, image, modulation, conditions)
    first = Speakers(dit, inputs.shown[:1])
    pair = single_branch(dit, *first.prepare_speakers(dit))(inputs.noisy, 0)
    alone = single_branch(dit, *first.only(0).prepare(dit))(inputs.noisy, 0)
    torch.testing.assert_close(together, torch.cat((pair, alone)), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_some_frames_of_moving_masks(dit: Hallo3Transformer) -> None:
    """A host that samples some latent frames has their masks."""
    inputs = Speakers(dit, masks(dit, 2, dit.latent.frames))
    some = [0, dit.latent.frames - 1]
    arguments = inputs.features, inputs.faces, inputs.prompt
    whole = dit.conditions(*arguments, inputs.voices, masks=inputs.shown)
    part = dit.conditions(*arguments, inputs.voices, some, masks=inputs.shown)
    tokens = torch.stack([dit.audio_proj(each) for each in inputs.voices.unbind(1)], dim=1)
    ready = dit.conditions(*arguments, tokens, some, masks=inputs.shown)
    for layers in zip(whole.audio, part.audio, ready.audio, strict=True):
        all_frames, chosen, again = (cast(SpeakersKV, each) for each in layers)
        assert torch.equal(chosen.shares, all_frames.shares[:, :, some])
        values = [[cast(KV, each).v for each in kv.speakers] for kv in (all_frames, chosen, again)]
        for every, found, same in zip(*values, strict=True):
            torch.testing.assert_close(found, every[some])
            torch.testing.assert_close(found, same)


def test_masks_of_another_grid_or_number_are_refused(dit: Hallo3Transformer) -> None:
    inputs = Speakers(dit, masks(dit, 2))
    with pytest.raises(ShapeError, match="masks"):
        dit.encode_audio(inputs.voices, masks=inputs.shown[..., 1:])
    with pytest.raises(ShapeError, match="masks"):
        dit.encode_audio(inputs.voices, masks=masks(dit, 3))
    with pytest.raises(ShapeError, match="masks"):
        dit.encode_audio(inputs.voices, masks=inputs.shown[0])


def test_a_gradient_reaches_every_speaker() -> None:
    dit = Hallo3Transformer(NANO, Layers())
    dit.load_state_dict(make_random_state(dit, "main"))
    inputs = Speakers(dit, masks(dit, 2))
    inputs.voices.requires_grad_()
    inputs.faces.requires_grad_()
    conditions = dit.conditions(
        inputs.features, inputs.faces, inputs.prompt, inputs.voices, masks=inputs.shown
    )
    dit(
        inputs.noisy, inputs.image, dit.modulate(STEPS[:1], inputs.noisy), conditions
    ).square().sum().backward()
    for each in (inputs.voices, inputs.faces):
        assert each.grad is not None
        assert (each.grad[0].flatten(1).norm(dim=1) > 0).all()
