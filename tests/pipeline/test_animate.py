"""The whole way: determinism, independence of segments, and what is held when."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import speech_of
from torch import Tensor, nn

from hallo3.errors import AudioError, FaceError, PortraitError
from hallo3.face.analysis import Face, ThumbnailAnalyzer, analyze
from hallo3.identity import extract_identity
from hallo3.media.sound import Recording
from hallo3.models import Models
from hallo3.noise import Purpose, seeded_noise
from hallo3.pipeline import animate, encode_prompt, encode_speech, render
from hallo3.segments import Segment
from hallo3.settings import Settings, settings_for
from hallo3.stages import Progress, Stages, prepare


def settings(models: Models, **changes: Any) -> Settings:
    return replace(settings_for(models.config.defaults), **changes)


def video(portrait: Tensor, speech: Recording, models: Models, prompt: str = "", **changes: Any) -> Tensor:
    made = animate(portrait, speech, prompt, models, settings(models, **changes))
    return torch.cat([frames.pixels for frames in made])


def test_frames_are_as_many_as_the_speech_is_long(portrait: Tensor, speech: Recording, nano: Models) -> None:
    seen: list[Progress] = []
    made = list(animate(portrait, speech, "hi", nano, settings(nano), watch=seen.append))
    assert [len(frames.pixels) for frames in made] == [15, 15, 8]
    everything = torch.cat([frames.pixels for frames in made])
    assert everything.shape == (38, 3, 32, 32)
    assert float(everything.min()) >= 0
    assert float(everything.max()) <= 1
    assert float(everything.std()) > 0.05
    assert seen == [Progress(s, 3, i, 2) for s in range(3) for i in (1, 2)]


def test_the_same_inputs_give_the_same_frames_whatever_ran_before(
    portrait: Tensor, speech: Recording, nano: Models
) -> None:
    first = video(portrait, speech, nano, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        video(portrait, speech_of(9000, "another"), nano, seed=6)
        assert torch.equal(first, video(portrait, speech, nano, seed=5))


def test_every_input_counts(portrait: Tensor, speech: Recording, nano: Models) -> None:
    brighter, later = portrait.clone(), speech_of(24000)
    brighter[:, 40, 32] = 1
    later.waveform[0, 12000:12400] *= -1
    videos = [
        video(portrait, speech, nano),
        *(video(portrait, speech, nano, seed=seed) for seed in (2**32, 2**63, 2**64 - 1)),
        video(brighter, speech, nano),
        video(portrait, later, nano),
        video(portrait, speech, nano, "hi"),
        video(portrait, speech, nano, "ho"),
        video(portrait, speech, nano, steps=3),
        video(portrait, speech, nano, guidance_scale=2.0),
        video(portrait, speech, nano, sampler="ddim"),
        video(portrait, speech, nano, posterior="sample"),
        video(portrait, speech, nano, motion_drop=0.5),
    ]
    for index, one in enumerate(videos):
        assert not any(torch.equal(one, other) for other in videos[:index])


def test_saving_memory_changes_no_number(portrait: Tensor, speech: Recording, nano: Models) -> None:
    plain = video(portrait, speech, nano)
    assert torch.equal(plain, video(portrait, speech, nano, on_access=True))
    assert torch.allclose(plain, video(portrait, speech, nano, sequential=True), atol=1e-3)


def staged(portrait: Tensor, speech: Recording, models: Models) -> tuple[Tensor, Stages]:
    chosen, noise = settings(models), seeded_noise(0)
    heard = encode_speech(speech, models)
    face = analyze(portrait, models.face, models.config.face)
    identity = extract_identity(portrait, face, models, chosen, noise)
    prompt = encode_prompt("", models)
    return identity.canvas.pixels, prepare(identity, heard, prompt, models, chosen, noise, lambda _: None)


def rendered(canvas: Tensor, stages: Stages, **instead: Any) -> Iterator[Any]:
    callables = {"encode": stages.encode, "sample": stages.sample, "decode": stages.decode} | instead
    return render(canvas, stages.speech.plan, noise=stages.noise, motion_drop=0.1, **callables)


@torch.inference_mode()
def test_a_segment_alone_equals_the_segment_in_sequence(
    portrait: Tensor, speech: Recording, nano: Models
) -> None:
    """Given its motion frames, by way of the image latents, nothing else is remembered."""
    canvas, stages = staged(portrait, speech, nano)
    met: dict[int, tuple[Tensor, Tensor, Segment]] = {}

    def sample(image_latents: Tensor, segment: Segment) -> Tensor:
        latents = stages.sample(image_latents, segment)
        met[segment.index] = (image_latents, latents, segment)
        return latents

    list(rendered(canvas, stages, sample=sample))
    _, fresh = staged(portrait, speech, nano)
    for image_latents, latents, segment in reversed(met.values()):
        assert torch.equal(fresh.sample(image_latents, segment), latents)


@torch.inference_mode()
def test_two_motion_frames_are_all_that_passes_on(portrait: Tensor, speech: Recording, nano: Models) -> None:
    canvas, stages = staged(portrait, speech, nano)
    clips: list[Tensor] = []
    decoded: list[Tensor] = []

    def encode(clip: Tensor, segment: Segment) -> Tensor:
        clips.append(clip)
        return stages.encode(clip, segment)

    def decode(latents: Tensor) -> Iterator[Tensor]:
        decoded.append(torch.cat(list(stages.decode(latents)), dim=2))
        yield decoded[-1]

    list(rendered(canvas, stages, encode=encode, decode=decode))
    assert all(clip.shape == (1, 3, 3, 32, 32) for clip in clips)
    assert all(torch.equal(clip[:, :, :1], canvas) for clip in clips)
    for clip, before in zip(clips[1:], decoded, strict=False):
        motion = before[:, :, -2:].clamp(-1, 1)
        kept = (clip[:, :, 1:] != 0).all(dim=(1, 2), keepdim=True)
        assert 0.8 < float(kept.float().mean()) < 0.97
        assert torch.allclose(clip[:, :, 1:], motion * kept, atol=1e-6)


@torch.inference_mode()
def test_the_last_segment_is_decoded_no_further_than_it_is_shown(portrait: Tensor, nano: Models) -> None:
    canvas, stages = staged(portrait, speech_of(640 * 18), nano)
    slices: list[int] = []

    def decode(latents: Tensor) -> Iterator[Tensor]:
        for part in stages.decode(latents):
            slices.append(part.shape[2])
            yield part

    pixels = torch.cat([frames.pixels for frames in rendered(canvas, stages, decode=decode)])
    assert len(pixels) == 18
    assert slices == [9, 8, 9]
    whole = torch.cat([frames.pixels for frames in rendered(canvas, stages)])
    assert torch.equal(pixels, whole)


def test_global_state_is_neither_read_nor_changed(portrait: Tensor, speech: Recording, nano: Models) -> None:
    def state() -> list[Any]:
        flags = [torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()]
        return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), flags]

    before, picture, sound = state(), portrait.clone(), speech.waveform.clone()
    made = animate(portrait, speech, "hi", nano, settings(nano))
    next(made)
    assert state() == before
    list(made)
    assert state() == before
    assert torch.equal(picture, portrait)
    assert torch.equal(sound, speech.waveform)


class Guarded:
    """Residencies that note who is in use and who was let go."""

    def __init__(self, models: Models) -> None:
        self.inside: list[str] = []
        self.entered: dict[str, int] = {}
        names = ("speech", "text", "vae", "reference", "transformer")
        self.models = replace(models, **{name: self._watched(name, getattr(models, name)) for name in names})

    def _watched(self, name: str, residency: Any) -> Any:
        outer = self

        class Watched:
            def __enter__(self) -> Any:
                assert not outer.inside, f"{name} entered while {outer.inside} is in use"
                outer.inside.append(name)
                outer.entered[name] = outer.entered.get(name, 0) + 1
                return residency.__enter__()

            def __exit__(self, *reason: Any) -> None:
                outer.inside.remove(name)
                residency.__exit__(*reason)

        return Watched()


def test_one_network_at_a_time_and_encoders_once(portrait: Tensor, speech: Recording, nano: Models) -> None:
    guarded = Guarded(nano)
    list(animate(portrait, speech, "hi", guarded.models, settings(nano)))
    assert guarded.entered == {"speech": 1, "text": 1, "reference": 1, "vae": 1 + 2 * 3, "transformer": 1 + 3}
    assert not guarded.inside


VISITORS = {"Wav2Vec2Model", "T5EncoderModel", "ReferenceNetwork"}


def visitors() -> dict[int, str]:
    gc.collect()
    found = (thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module))
    return {id(thing): type(thing).__name__ for thing in found if type(thing).__name__ in VISITORS}


def test_visitors_are_gone_when_sampling_starts(portrait: Tensor, speech: Recording, nano: Models) -> None:
    before, during = visitors(), list[dict[int, str]]()
    next(animate(portrait, speech, "hi", nano, settings(nano), watch=lambda _: during.append(visitors())))
    assert set(during[0]) <= set(before)


@contextmanager
def refusing() -> Iterator[Any]:
    raise AssertionError("this network is not needed")
    yield


def test_no_prompt_needs_no_text_encoder(portrait: Tensor, speech: Recording, nano: Models) -> None:
    models = replace(nano, text=refusing())
    next(animate(portrait, speech, "  ", models, settings(nano)))


def test_guidance_of_one_is_the_conditional_branch_alone(
    portrait: Tensor, speech: Recording, nano: Models
) -> None:
    batches: list[int] = []
    with nano.transformer as dit:
        hook = dit.proj_out.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    try:
        next(animate(portrait, speech, "", nano, settings(nano, guidance_scale=1.0)))
        next(animate(portrait, speech, "", nano, settings(nano)))
        next(animate(portrait, speech, "", nano, settings(nano, sequential=True)))
    finally:
        hook.remove()
    assert batches == [1, 1, 2, 2, 1, 1, 1, 1]


def test_a_long_prompt_is_cut_with_a_word(portrait: Tensor, speech: Recording, nano: Models) -> None:
    with pytest.warns(UserWarning, match="101 tokens; the model reads 8, the last 93"):
        long = video(portrait, speech, nano, "y" * 100)
    assert torch.equal(long, video(portrait, speech, nano, "y" * 7))


def test_inputs_are_refused_before_any_network_is_used(portrait: Tensor, nano: Models) -> None:
    nothing = {name: refusing() for name in ("speech", "text", "vae", "reference", "transformer")}
    models = replace(nano, **nothing)
    with pytest.raises(AudioError):
        next(animate(portrait, speech_of(639), "", models, settings(nano)))
    with pytest.raises(PortraitError):
        next(animate(portrait[:, :63], speech_of(16000), "", models, settings(nano)))
    stranger = replace(models, face=ThumbnailAnalyzer(48, space="arcface"))
    with pytest.raises(FaceError, match="space 'arcface'"):
        next(animate(portrait, speech_of(16000), "", stranger, settings(nano)))


class BrokenAnalyzer:
    """An analyzer that answers wrongly."""

    space = "thumbnail"

    def __init__(self, face: Face) -> None:
        self.face = face

    def analyze(self, picture: Tensor) -> Face:
        del picture
        return self.face


@pytest.mark.parametrize(
    "face",
    [
        Face(mask=torch.ones(80, 64), embedding=torch.zeros(1, 47)),
        Face(mask=torch.ones(80, 64), embedding=torch.full((1, 48), float("nan"))),
        Face(mask=torch.ones(8, 8), embedding=torch.zeros(1, 48)),
    ],
)
def test_a_wrong_analyzer_is_caught(portrait: Tensor, speech: Recording, nano: Models, face: Face) -> None:
    with pytest.raises(FaceError):
        next(animate(portrait, speech, "", replace(nano, face=BrokenAnalyzer(face)), settings(nano)))


def test_the_reference_network_sees_only_the_face(portrait: Tensor, nano: Models) -> None:
    """What is outside the mask reaches the video through the canvas, never through the identity."""
    half = torch.zeros(80, 64)
    half[:, :32] = 1
    face = Face(mask=half, embedding=torch.ones(1, 48))
    changed = portrait.clone()
    changed[:, :, 40:] = 0
    noise = seeded_noise(0)
    with torch.inference_mode():
        one, other = (extract_identity(p, face, nano, settings(nano), noise) for p in (portrait, changed))
    pairs = zip(one.reference_features, other.reference_features, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.canvas.pixels, other.canvas.pixels)


def test_recorded_noise_can_stand_in(portrait: Tensor, speech: Recording, nano: Models) -> None:
    asked: list[tuple[Purpose, int, int]] = []
    seeded = seeded_noise(0)

    def noise(purpose: Purpose, segment: int, step: int, shape: tuple[int, ...]) -> Tensor:
        asked.append((purpose, segment, step))
        return seeded(purpose, segment, step, shape)

    made = animate(portrait, speech, "", nano, settings(nano, posterior="sample"), noise=noise)
    pixels = torch.cat([frames.pixels for frames in made])
    assert torch.equal(pixels, video(portrait, speech, nano, posterior="sample"))
    per_segment = (Purpose.MOTION_MASK, Purpose.MOTION_POSTERIOR, Purpose.START, Purpose.STEP)
    wanted = [(Purpose.IDENTITY_POSTERIOR, 0, 0)] + [(p, s, 0) for s in range(3) for p in per_segment]
    assert asked == wanted
