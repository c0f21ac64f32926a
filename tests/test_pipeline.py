"""The render loop: determinism, independence of segments, and what each network is called for."""

import gc
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import speech_of
from hallo3 import pipeline
from hallo3.errors import AudioError, FaceError, PortraitError
from hallo3.face.analyzer import Face, ThumbnailAnalyzer
from hallo3.face.registry import analyze_portrait
from hallo3.identity import frame_portrait
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.transformer import ReferenceNetwork
from hallo3.models import Models
from hallo3.noise import Noise, Purpose, make_noise
from hallo3.pipeline import LocalRenderer, MemoryStore, RenderProgress, animate, extract_identity, render
from hallo3.quantization import PRECISIONS
from hallo3.script import parse_script
from hallo3.segments import Segment
from hallo3.text_encoder import TextEncoder
from support.messages import expect_message
from support.resume_runs import before
from support.short_runs import settings, unused_network, video

SEGMENTS, STEPS = 3, 4
NETWORKS = "speech", "text", "vae", "reference", "transformer"


def test_the_video_is_as_long_as_the_speech(portrait: Tensor, speech: Recording, nano: Models) -> None:
    progress: list[RenderProgress] = []
    parts = list(animate(portrait, speech, "hi", nano, settings(nano), watch=progress.append))
    assert [len(frames.pixels) for frames in parts] == [15, 15, 8]
    everything = torch.cat([frames.pixels for frames in parts])
    assert everything.shape == (38, 3, 32, 32)
    assert 0 <= float(everything.min()) <= float(everything.max()) <= 1
    assert float(everything.std()) > 0.05
    assert progress == [RenderProgress(s, 3, i, 2) for s in range(3) for i in (1, 2)]


def test_other_runs_change_no_frame(portrait: Tensor, speech: Recording, nano: Models) -> None:
    first = video(portrait, speech, nano, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        video(portrait, speech_of(9000, "another"), nano, seed=6)
        assert torch.equal(first, video(portrait, speech, nano, seed=5))


def test_every_input_counts(portrait: Tensor, speech: Recording, nano: Models) -> None:
    brighter, later = portrait.clone(), speech_of(24000)
    brighter[:, 40, 32] = 1
    later.waveform[0, 12000:12400] *= -1
    changes = {"seed": 2**64 - 1, "prompt": "hi", "steps": 3, "guidance_scale": 2.0, "sampler": "ddim"}
    changes |= {"posterior": "sample", "motion_drop": 0.5}
    videos = [video(brighter, speech, nano), video(portrait, later, nano), video(portrait, speech, nano)]
    videos += [video(portrait, speech, nano, **{name: value}) for name, value in changes.items()]
    videos.append(video(portrait, speech, nano, prompt="ho"))
    for index, one in enumerate(videos):
        assert not any(torch.equal(one, other) for other in videos[:index])


def test_saving_memory_changes_no_number(portrait: Tensor, speech: Recording, nano: Models) -> None:
    plain = video(portrait, speech, nano)
    assert torch.equal(plain, video(portrait, speech, nano, on_access=True))
    assert torch.allclose(plain, video(portrait, speech, nano, passes="sequential"), atol=1e-3)


def test_global_state_is_neither_read_nor_changed(portrait: Tensor, speech: Recording, nano: Models) -> None:
    def state() -> list[Any]:
        flags = [torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()]
        return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), flags]

    before, picture, sound = state(), portrait.clone(), speech.waveform.clone()
    for _ in animate(portrait, speech, "hi", nano, settings(nano)):
        assert state() == before
    assert state() == before
    assert torch.equal(picture, portrait)
    assert torch.equal(sound, speech.waveform)


def test_a_long_prompt_is_cut_with_a_message(portrait: Tensor, speech: Recording, nano: Models) -> None:
    with expect_message("101 tokens; the model reads 8, the last 93"):
        long = video(portrait, speech, nano, "y" * 100)
    assert torch.equal(long, video(portrait, speech, nano, "y" * 7))


def test_inputs_are_refused_before_any_network_is_used(portrait: Tensor, nano: Models) -> None:
    models = replace(nano, **{name: unused_network() for name in NETWORKS})
    stranger, speech = replace(models, face=ThumbnailAnalyzer(48, space="arcface")), speech_of(16000)
    for error, text, run in (
        (AudioError, "639 samples", animate(portrait, speech_of(639), "", models, settings(nano))),
        (PortraitError, "64 px", animate(portrait[:, :63], speech, "", models, settings(nano))),
        (FaceError, "space 'arcface'", animate(portrait, speech, "", stranger, settings(nano))),
    ):
        with pytest.raises(error, match=text):
            next(run)


def test_a_wrong_analyzer_is_refused(portrait: Tensor, speech: Recording, nano: Models) -> None:
    mask, embedding = torch.ones(80, 64), torch.zeros(1, 48)
    wrongs = (mask, torch.zeros(1, 47)), (mask, embedding * float("nan")), (torch.ones(8, 8), embedding)
    for face in (Face(mask=mask, embedding=embedding) for mask, embedding in wrongs):
        broken: Any = SimpleNamespace(space="thumbnail", analyze=lambda _, face=face: face)
        with pytest.raises(FaceError):
            next(animate(portrait, speech, "", replace(nano, face=broken), settings(nano)))


def prepare(portrait: Tensor, speech: Recording, models: Models) -> tuple[Tensor, LocalRenderer]:
    """The canvas and the renderer of a run."""
    chosen, noise = settings(models), make_noise(0)
    face = analyze_portrait(portrait, models.face, models.config.face)
    framed = frame_portrait(portrait, face, models.config.segment.shape)
    identity = extract_identity(framed, models, chosen, noise)
    features, prompt = pipeline.encode_speech(speech, models), pipeline.encode_prompt("", models)
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
def test_a_segment_alone_is_the_same(portrait: Tensor, speech: Recording, nano: Models) -> None:
    """A segment depends on its image latents and noise only."""
    recorder, _ = run(*prepare(portrait, speech, nano))
    _, fresh = prepare(portrait, speech, nano)
    for image_latents, latents, segment, noise in reversed(recorder.sampled):
        assert torch.equal(fresh.sample(image_latents, segment, noise), latents)


@torch.inference_mode()
def test_only_two_motion_frames_pass_on(portrait: Tensor, speech: Recording, nano: Models) -> None:
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
def test_the_last_segment_is_decoded_only_as_far_as_needed(portrait: Tensor, nano: Models) -> None:
    recorder, pixels = run(*prepare(portrait, speech_of(640 * 18), nano))
    assert len(pixels) == 18
    assert [part.shape[2] for parts in recorder.decoded for part in parts] == [9, 8, 9]


def test_one_network_at_a_time_and_encoders_once(portrait: Tensor, speech: Recording, nano: Models) -> None:
    active = list[Any]()
    counted = {name: CountingResidency(getattr(nano, name), active) for name in NETWORKS}
    list(animate(portrait, speech, "hi", replace(nano, **counted), settings(nano)))
    entered = {name: residency.entered for name, residency in counted.items()}
    assert entered == {"speech": 1, "text": 1, "reference": 1, "vae": 1 + 2 * 3, "transformer": 1 + 3}
    assert not active


ENCODERS = {"Wav2Vec2", "T5", "ReferenceNetwork"}


def loaded_encoders() -> dict[int, str]:
    gc.collect()
    modules = (thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module))
    return {id(thing): type(thing).__name__ for thing in modules if type(thing).__name__ in ENCODERS}


def test_encoders_are_unloaded_before_sampling(portrait: Tensor, speech: Recording, nano: Models) -> None:
    before, during = loaded_encoders(), list[dict[int, str]]()
    watch = lambda _: during.append(loaded_encoders())  # noqa: E731
    next(animate(portrait, speech, "hi", nano, settings(nano), watch=watch))
    assert set(during[0]) <= set(before)
    without = replace(nano, text=unused_network())
    next(animate(portrait, speech, "  ", without, settings(nano)))  # no prompt needs no text encoder


def test_the_reference_network_sees_only_the_face(portrait: Tensor, nano: Models) -> None:
    """Pixels outside the mask reach the video through the canvas, never through the identity."""
    half, changed = torch.zeros(80, 64), portrait.clone()
    half[:, :32], changed[:, :, 40:] = 1, 0
    face = Face(mask=half, embedding=torch.ones(1, 48))
    with torch.inference_mode():
        framed = (frame_portrait(p, face, nano.config.segment.shape) for p in (portrait, changed))
        one, other = (extract_identity(p, nano, settings(nano), make_noise(0)) for p in framed)
    assert all(map(torch.equal, one.reference_features, other.reference_features))
    assert not torch.equal(one.canvas.pixels, other.canvas.pixels)


def test_noise_can_be_replaced(portrait: Tensor, speech: Recording, nano: Models) -> None:
    requests, seeded = list[tuple[Purpose, int, int]](), make_noise(0)

    def noise(purpose: Purpose, segment: int, step: int, shape: tuple[int, ...]) -> Tensor:
        requests.append((purpose, segment, step))
        return seeded(purpose, segment, step, shape)

    parts = animate(portrait, speech, "", nano, settings(nano, posterior="sample"), noise=noise)
    pixels = torch.cat([frames.pixels for frames in parts])
    assert torch.equal(pixels, video(portrait, speech, nano, posterior="sample"))
    per_segment = (Purpose.MOTION_MASK, Purpose.MOTION_POSTERIOR, Purpose.START, Purpose.STEP)
    expected = [(Purpose.IDENTITY_POSTERIOR, 0, 0)] + [(p, s, 0) for s in range(3) for p in per_segment]
    assert requests == expected


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_is_close(portrait: Tensor, nano: Models, nano_folder: Path, name: str) -> None:
    half = load_models(nano_folder, torch.device("cpu"), name)
    with half.speech as wav2vec2, half.transformer as dit:
        assert next(wav2vec2.parameters()).dtype == torch.float32
        assert next(dit.parameters()).dtype == PRECISIONS[name].compute
    frames, expected = (
        video(portrait, speech_of(24000), each, "hi", sampler="ddim") for each in (half, nano)
    )
    assert frames.dtype == torch.float32
    assert bool(frames.isfinite().all())
    assert float((frames - expected).abs().mean()) < 0.1 * float(expected.std())


class CountingResidency:
    """Counts how often a residency is entered; refuses to be entered while another of ``active`` is."""

    def __init__(self, residency: Any, active: list[Any]) -> None:
        self._residency, self._active, self.entered = residency, active, 0

    def __enter__(self) -> Any:
        assert not self._active, "two networks in use at once"
        self._active.append(self)
        self.entered += 1
        return self._residency.__enter__()

    def __exit__(self, *stopped: Any) -> None:
        self._active.remove(self)
        self._residency.__exit__(*stopped)


ONCE = {"features": ReferenceNetwork, "encode": TextEncoder, "compute_features": pipeline}


@pytest.mark.parametrize("passes", GUIDANCE_PASSES)
def test_what_is_constant_is_computed_once(nano: Models, portrait: Tensor, passes: str) -> None:
    calls, block = Counter[str](), "transformer_blocks.0"
    branches, samples = 1 if passes == "batched" else 2, SEGMENTS * nano.config.segment.new_frames * 640
    expected = {
        "face_proj": 1,
        "patch_embed.text_proj": 1,
        "audio_proj": SEGMENTS + 1,  # once for silence
        f"{block}.attn_face.to_k": 1,
        f"{block}.attn_audio.to_k": SEGMENTS + 1,
        f"{block}.norm1.linear": 1,  # all timesteps at once
        f"{block}.attn1.to_k": SEGMENTS * STEPS * branches + 1,  # once for the reference
    }
    chosen = settings(nano, steps=STEPS, guidance_scale=3.5, passes=passes)
    with ExitStack() as stack, nano.transformer as dit:
        for name, place in (ONCE | {name: dit.get_submodule(name) for name in expected}).items():
            function = name if name in ONCE else "forward"
            stack.enter_context(before(place, function, lambda name=name: calls.update([name])))
        frames = list(animate(portrait, speech_of(samples), "a man", nano, chosen))
    assert len(frames) == SEGMENTS
    assert calls == expected | dict.fromkeys(ONCE, 1)


def test_one_prompt_everywhere_is_the_same_video(portrait: Tensor, nano: Models) -> None:
    recording, chosen = speech_of(35 * 640), settings(nano)

    def render_with(prompt: str, script: str) -> list[Tensor]:
        parsed = parse_script(script) if script else None
        frames = animate(portrait, recording, prompt, nano, chosen, script=parsed)
        return [each.pixels for each in frames]

    plain = render_with("a blue", "")
    assert len(plain) == 3
    for script in ("[0:00-] a blue", "[0-0:00.7] a blue\n[0:00.7-] a  blue"):
        assert all(map(torch.equal, plain, render_with("", script)))
    with expect_message("after the end of the speech"):
        assert all(map(torch.equal, plain, render_with("a blue", "[0:20-] dim")))
    changed = render_with("a blue", "[0:00.3-] a warm")
    assert [torch.equal(*pair) for pair in zip(plain, changed, strict=True)] == [True, False, False]


def test_each_prompt_is_encoded_once(nano: Models) -> None:
    opened, encoded = Mock(), list[str]()

    @contextmanager
    def text() -> Iterator[Any]:
        opened()
        with nano.text as encoder:
            yield SimpleNamespace(
                encode=lambda prompt, n: (encoded.append(prompt), encoder.encode(prompt, n))[1]
            )

    prompts = ["warm", "blue", " ", "warm", "blue"]
    found = pipeline.encode_prompts(prompts, replace(nano, text=text()))
    assert (opened.call_count, encoded) == (1, ["warm", "blue"])
    assert found[0] is found[3]
    assert not found[2].any()
    assert pipeline.encode_prompts(["", " "], replace(nano, text=unused_network()))[0].shape == found[0].shape
