"""The loop and its stages: what passes on, what is held when, who is asked for what."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import speech_of
from hallo3.face.analyzer import Face, analyze_portrait
from hallo3.identity import frame_portrait
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.noise import Noise, Purpose, make_noise
from hallo3.pipeline import (
    LocalRenderer,
    MemoryStore,
    animate,
    encode_prompt,
    encode_speech,
    extract_identity,
    render,
)
from hallo3.quantization.precision import Precision
from hallo3.segments import Segment
from support.short_runs import refusing, settings, video


def prepare(portrait: Tensor, speech: Recording, models: Models) -> tuple[Tensor, LocalRenderer]:
    """The canvas and the renderer of a run."""
    chosen, noise = settings(models), make_noise(0)
    features = encode_speech(speech, models)
    face = analyze_portrait(portrait, models.face, models.config.face)
    framed = frame_portrait(portrait, face, models.config.segment.shape)
    identity = extract_identity(framed, models, chosen, noise)
    prompt = encode_prompt("", models)
    return identity.canvas.pixels, LocalRenderer.prepare(identity, features, prompt, models, chosen)


class Recorder:
    """A renderer that records what passes between the stages of another."""

    def __init__(self, local: LocalRenderer) -> None:
        self.local = local
        self.clips: list[Tensor] = []
        self.sampled: list[tuple[Tensor, Tensor, Segment, Noise]] = []
        self.decoded: list[list[Tensor]] = []

    def encode(self, pixels: Tensor, segment: Segment, noise: Noise) -> Tensor:
        self.clips.append(pixels)
        return self.local.encode(pixels, segment, noise)

    def sample(self, image_latents: Tensor, segment: Segment, noise: Noise) -> Tensor:
        latents = self.local.sample(image_latents, segment, noise)
        self.sampled.append((image_latents, latents, segment, noise))
        return latents

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        self.decoded.append([])
        for part in self.local.decode(latents):
            self.decoded[-1].append(part)
            yield part


def run(canvas: Tensor, local: LocalRenderer) -> tuple[Recorder, Tensor]:
    recorder = Recorder(local)
    frames = render(canvas, local.speech.plan, recorder, MemoryStore(make_noise(0)), motion_drop=0.1)
    return recorder, torch.cat([each.pixels for each in frames])


@torch.inference_mode()
def test_a_segment_alone_equals_the_segment_in_sequence(
    portrait: Tensor, speech: Recording, nano: Models
) -> None:
    """Given its motion frames, by way of the image latents, nothing else is remembered."""
    recorder, _ = run(*prepare(portrait, speech, nano))
    _, fresh = prepare(portrait, speech, nano)
    for image_latents, latents, segment, noise in reversed(recorder.sampled):
        assert torch.equal(fresh.sample(image_latents, segment, noise), latents)


@torch.inference_mode()
def test_two_motion_frames_are_all_that_passes_on(portrait: Tensor, speech: Recording, nano: Models) -> None:
    canvas, local = prepare(portrait, speech, nano)
    recorder, _ = run(canvas, local)
    assert all(clip.shape == (1, 3, 3, 32, 32) for clip in recorder.clips)
    assert all(torch.equal(clip[:, :, :1], canvas) for clip in recorder.clips)
    for clip, parts in zip(recorder.clips[1:], recorder.decoded, strict=False):
        motion = torch.cat(parts, dim=2)[:, :, -2:].clamp(-1, 1)
        visible = (clip[:, :, 1:] != 0).all(dim=(1, 2), keepdim=True)
        assert 0.8 < float(visible.float().mean()) < 0.97
        assert torch.allclose(clip[:, :, 1:], motion * visible, atol=1e-6)


@torch.inference_mode()
def test_the_last_segment_is_decoded_only_as_far_as_it_is_shown(portrait: Tensor, nano: Models) -> None:
    recorder, pixels = run(*prepare(portrait, speech_of(640 * 18), nano))
    assert len(pixels) == 18
    assert [part.shape[2] for parts in recorder.decoded for part in parts] == [9, 8, 9]


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
        next(animate(portrait, speech, "", nano, settings(nano, passes="sequential")))
    finally:
        hook.remove()
    assert batches == [1, 1, 2, 2, 1, 1, 1, 1]


def test_the_reference_network_sees_only_the_face(portrait: Tensor, nano: Models) -> None:
    """What is outside the mask reaches the video through the canvas, never through the identity."""
    half = torch.zeros(80, 64)
    half[:, :32] = 1
    face = Face(mask=half, embedding=torch.ones(1, 48))
    changed = portrait.clone()
    changed[:, :, 40:] = 0
    noise = make_noise(0)
    with torch.inference_mode():
        framed = (frame_portrait(p, face, nano.config.segment.shape) for p in (portrait, changed))
        one, other = (extract_identity(p, nano, settings(nano), noise) for p in framed)
    pairs = zip(one.reference_features, other.reference_features, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.canvas.pixels, other.canvas.pixels)


def test_recorded_noise_can_stand_in(portrait: Tensor, speech: Recording, nano: Models) -> None:
    asked: list[tuple[Purpose, int, int]] = []
    seeded = make_noise(0)

    def noise(purpose: Purpose, segment: int, step: int, shape: tuple[int, ...]) -> Tensor:
        asked.append((purpose, segment, step))
        return seeded(purpose, segment, step, shape)

    made = animate(portrait, speech, "", nano, settings(nano, posterior="sample"), noise=noise)
    pixels = torch.cat([frames.pixels for frames in made])
    assert torch.equal(pixels, video(portrait, speech, nano, posterior="sample"))
    per_segment = (Purpose.MOTION_MASK, Purpose.MOTION_POSTERIOR, Purpose.START, Purpose.STEP)
    wanted = [(Purpose.IDENTITY_POSTERIOR, 0, 0)] + [(p, s, 0) for s in range(3) for p in per_segment]
    assert asked == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_the_full_one(
    portrait: Tensor, speech: Recording, nano: Models, nano_folder: Path, dtype: torch.dtype
) -> None:
    half = load_models(nano_folder, torch.device("cpu"), Precision(str(dtype), dtype))
    with half.speech as wav2vec2, half.transformer as dit:
        assert next(wav2vec2.parameters()).dtype == torch.float32
        assert next(dit.parameters()).dtype == dtype
    found, wanted = (video(portrait, speech, models, "hi", sampler="ddim") for models in (half, nano))
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert float((found - wanted).abs().mean()) < 0.1 * float(wanted.std())
