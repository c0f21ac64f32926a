"""The nodes give what the package gives alone, on the same weights and noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import hallo3
from comfyui.stages import SEED, STEPS, Stages, difference
from hallo3.built_in import FOLDER
from hallo3.checkpoints.load import load_strict, read_state
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import HALLO3, SPEECH_ENCODERS
from hallo3.face.analyzer import analyze_portrait
from hallo3.identity import frame_portrait
from hallo3.loading import load_models
from hallo3.media.audio import to_mono
from hallo3.model.guidance import batched_branches
from hallo3.model.transformer import SegmentConditions
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.pipeline import LocalRenderer, collect_frames, encode_prompt, encode_speech, extract_identity
from hallo3.quantization import PRECISIONS
from hallo3.segments import plan_segments
from hallo3.speech.encoder import encode_waveform
from hallo3.speech.wav2vec2 import build_wav2vec2, split_wav2vec2


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(FOLDER, torch.device("cpu"), PRECISIONS["fp32"])


@pytest.fixture(scope="module")
def settings(models: Models) -> hallo3.Settings:
    return hallo3.settings_for(models.config.defaults, seed=SEED, steps=STEPS)


def test_the_built_in_weights_are_the_files(stages: Stages) -> None:
    """Half precision on disk, float32 in memory; the VAE's too, though ComfyUI's own class holds them."""
    files = ModelFolder(FOLDER)
    loaded = {
        files.find("transformer"): stages.model.model.diffusion_model,
        files.find("reference"): stages.reference.patcher.model,
        files.find("vae"): stages.vae.first_stage_model,
        files.find("speech_encoder"): stages.audio_encoder.model,
        files.find("text_encoder"): stages.clip.cond_stage_model.t5,
    }
    for path, network in loaded.items():
        stored, found = load_file(path), network.state_dict()
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        assert found.keys() - stored.keys() <= {"encoder.embed_tokens.weight"}
        wanted = read_state(path, torch.float32)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("prompt", ["a person in blue light", "Warm light!", "", "  ", "?"])
def test_prompts_are_equal(stages: Stages, models: Models, prompt: str) -> None:
    """By ComfyUI's own node; no prompt is zero text, as headless."""
    import nodes

    [[found, extras]] = nodes.CLIPTextEncode().encode(stages.clip, prompt)[0]
    assert difference(found, encode_prompt(prompt, models)) == 0
    assert bool(found.any()) == bool(prompt.strip())
    assert extras["pooled_output"] is None


def test_speech_is_equal(stages: Stages, models: Models, recording: Any) -> None:
    wanted, found = encode_speech(recording, models), stages.speech.speech
    assert found.plan.frames == wanted.plan.frames
    for index in range(len(wanted.plan)):
        assert difference(found.segment(index), wanted.segment(index)) == 0


def test_identity_is_equal(
    stages: Stages, models: Models, settings: hallo3.Settings, picture: Tensor
) -> None:
    face = analyze_portrait(picture, models.face, models.config.face)
    framed = frame_portrait(picture, face, models.config.segment.shape)
    wanted, found = extract_identity(framed, models, settings, make_noise(SEED)), stages.identity
    assert difference(found.canvas.pixels, wanted.canvas.pixels) == 0
    assert difference(found.face_embedding, wanted.face_embedding) == 0
    for mine, theirs in zip(found.reference_features, wanted.reference_features, strict=True):
        assert difference(mine, theirs) <= 1e-5


def test_one_forward_is_equal(
    stages: Stages, models: Models, settings: hallo3.Settings, picture: Tensor, recording: Any
) -> None:
    """Both guidance branches in one batch, conditions projected on access against prepared ones."""
    face = analyze_portrait(picture, models.face, models.config.face)
    noise = make_noise(SEED)
    framed = frame_portrait(picture, face, models.config.segment.shape)
    identity = extract_identity(framed, models, settings, noise)
    speech = encode_speech(recording, models)
    prompt = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(3))
    renderer = LocalRenderer.prepare(identity, speech, prompt, models, settings)
    known = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    noisy = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(5))
    image_latents = F.pad(known, (0, 0, 0, 0, 0, 8))
    with models.transformer as dit:
        conditions = SegmentConditions(audio=dit.encode_audio(speech.segment(1)), image_latents=image_latents)
        wanted = batched_branches(dit, renderer.run, conditions)(noisy, 2)
    windows = speech.segment(1)
    found = stages.model.model.diffusion_model(
        torch.cat((noisy, image_latents), dim=1).expand(2, -1, -1, -1, -1),
        renderer.schedule.timesteps[2].expand(2),
        torch.cat((torch.zeros_like(prompt), prompt)),
        {},
        hallo3_identity=stages.identity,
        hallo3_windows=torch.cat((torch.zeros_like(windows), windows)),
    )
    assert difference(found, wanted) <= 1e-5


def test_frames_of_equal_latents_are_close(stages: Stages, models: Models) -> None:
    latents = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(6))
    with models.vae as vae:
        wanted = collect_frames(vae.decode(latents), 33)[0].permute(1, 2, 3, 0)
    unscaled = latents / models.config.vae.scaling_factor  # ComfyUI's LATENT
    images, motion = stages.run("Hallo3VAEDecode", samples={"samples": unscaled}, vae=stages.vae)
    assert difference(images, wanted) <= 1e-4
    assert difference(motion, wanted[-2:]) <= 1e-4


PROMPT = "a person in blue light"


@pytest.mark.parametrize(
    ("sampler", "guidance", "prompt"),
    [("ddim", 1.0, ""), ("ddim", 1.0, PROMPT), ("dpmpp_2m_sde", 3.5, PROMPT)],
)
def test_all_frames_are_close(
    stages: Stages,
    models: Models,
    picture: Tensor,
    recording: Any,
    sampler: str,
    guidance: float,
    prompt: str,
) -> None:
    """Six segments with the package's noise: the built-in model's defaults, then guidance and the original's
    sampler."""
    import nodes

    settings = hallo3.settings_for(
        models.config.defaults, seed=SEED, steps=STEPS, guidance_scale=guidance, sampler=sampler
    )
    rendered = hallo3.animate(picture, recording, prompt, models, settings)
    wanted = torch.cat([frames.pixels for frames in rendered]).permute(0, 2, 3, 1)
    inputs = stages.inputs(
        guidance_scale=guidance,
        sampler=stages.run("Hallo3OriginalSampler", sampler_name=sampler)[0] if guidance != 1 else None,
        positive=nodes.CLIPTextEncode().encode(stages.clip, prompt)[0] if prompt else None,
    )
    video, images, *_ = stages.run("Hallo3Extrapolate", **inputs)
    assert difference(images, wanted) <= 1e-4
    components = video.get_components()
    assert components.frame_rate == 25
    longer = components.audio["waveform"].shape[-1] - recording.waveform.shape[-1]
    assert 0 <= longer < 640 + 1024  # to the end of the last frame, in packets


def test_segments_one_by_one_equal_extrapolate(stages: Stages) -> None:
    whole = stages.run("Hallo3Extrapolate", **stages.inputs())[1]
    pieces, motion = [], None
    for index in range(len(stages.speech.speech.plan)):
        latent = stages.run("Hallo3Sampler", **stages.inputs(segment=index, motion_frames=motion))[0]
        images, motion = stages.run(
            "Hallo3VAEDecode", samples=latent, vae=stages.vae, identity=stages.identity
        )
        pieces.append(images)
    assert difference(torch.cat(pieces), whole) <= 1e-6


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "ddim"])
def test_the_original_as_sampler_and_sigmas_is_the_original(stages: Stages, sampler: str) -> None:
    """The nodes' outputs equal the defaults, which are ddim for the built-in model."""
    inputs = stages.inputs(segment=0)
    chosen = stages.run("Hallo3OriginalSampler", sampler_name=sampler)[0]
    sigmas = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=STEPS)[0]
    found = stages.run("Hallo3Sampler", **inputs, sampler=chosen, sigmas=sigmas)[0]["samples"]
    usual = stages.run("Hallo3Sampler", **inputs)[0]["samples"]
    assert (difference(found, usual) == 0) == (sampler == "ddim")


def test_comfyuis_wav2vec2_gives_the_features_of_transformers(stages: Stages, recording: Any) -> None:
    """At the real size, loaded by ComfyUI's loader (which stores half precision), computed in float32."""
    import comfy.audio_encoders.audio_encoders as encoders

    config = SPEECH_ENCODERS["hallo3"]
    network = build_wav2vec2(config)
    state = make_random_state(network, "real size")
    loaded = encoders.load_audio_encoder_from_sd({name: t.clone() for name, t in state.items()})
    stored = loaded.model.state_dict()
    rounded = {name: stored[name].float() if name in stored else t for name, t in state.items()}
    load_strict(network, rounded, "wav2vec2")
    short = hallo3.Recording(recording.waveform[:, :20000], 16000)
    plan = plan_segments(20000, HALLO3.segment)
    wanted = encode_waveform(split_wav2vec2(network), to_mono(short, 16000), plan, torch.device("cpu"))
    audio = {"waveform": short.waveform[None], "sample_rate": 16000}
    socket = stages.run("Hallo3EncodeSpeech", audio=audio, audio_encoder=loaded)[0]
    found = socket.speech.read(range(plan.padded))
    assert difference(found, wanted) <= 1e-4 * float(wanted.abs().max())
