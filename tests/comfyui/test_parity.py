"""The nodes give what the package gives alone, on the same weights and noise, and what the original gave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import hallo3
from comfyui.host import Host
from comfyui.stages import SEED, STEPS, Stages, difference
from golden_checks import networks
from golden_checks.directory import Golden, read_golden, swap
from hallo3.built_in import FOLDER
from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.load import load_strict, read_state
from hallo3.checkpoints.locate import ModelFolder
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import HALLO3, SPEECH_ENCODERS, to_dict
from hallo3.face.registry import analyze_portrait
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


@pytest.fixture(scope="module")
def identity(models: Models, settings: hallo3.Settings, picture: Tensor) -> Any:
    face = analyze_portrait(picture, models.face, models.config.face)
    framed = frame_portrait(picture, face, models.config.segment.shape)
    return extract_identity(framed, models, settings, make_noise(SEED))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_built_in_weights_are_the_files(stages: Stages) -> None:
    """Half precision on disk, float32 in memory; the VAE's too, though ComfyUI's own class holds them."""
    loaded = {
        "transformer": stages.model.model.diffusion_model,
        "vae": stages.vae.first_stage_model,
        "speech_encoder": stages.audio_encoder.model,
        "text_encoder": stages.clip.cond_stage_model.t5,
    }
    for part, network in loaded.items():
        path, found = ModelFolder(FOLDER).find(part), network.state_dict()
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        wanted = read_state(path, torch.float32)
        assert found.keys() - wanted.keys() <= {"encoder.embed_tokens.weight"}
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("prompt", ["a person in blue light", "Warm light!", "", "  ", "?"])
def test_prompts_are_equal(stages: Stages, models: Models, prompt: str) -> None:
    """No prompt is zero text, as headless."""
    [[found, extras]] = stages.encode_text(prompt)
    assert difference(found, encode_prompt(prompt, models)) == 0
    assert bool(found.any()) == bool(prompt.strip())
    assert extras["pooled_output"] is None


def test_speech_is_equal(stages: Stages, models: Models, recording: Any) -> None:
    wanted, found = encode_speech(recording, models), stages.speech.speech
    assert found.plan.frames == wanted.plan.frames
    for index in range(len(wanted.plan)):
        assert difference(found.segment(index), wanted.segment(index)) == 0


def test_identity_is_equal(stages: Stages, identity: Any) -> None:
    found = stages.identity
    assert difference(found.canvas.pixels, identity.canvas.pixels) == 0
    assert difference(found.face_embedding, identity.face_embedding) == 0
    torch.testing.assert_close(found.reference_features, identity.reference_features, atol=1e-5, rtol=0)


def test_a_pass_is_equal(stages: Any, models: Models, settings: Any, identity: Any, recording: Any) -> None:
    """Both guidance branches in one batch, conditions projected on access against prepared ones."""
    speech, prompt = encode_speech(recording, models), drawn(3, 1, 16, 32)
    renderer = LocalRenderer.prepare(identity, speech, prompt, models, settings)
    noisy, image_latents = drawn(5, 1, 16, 9, 8, 8), F.pad(drawn(4, 1, 16, 1, 8, 8), (0, 0, 0, 0, 0, 8))
    windows = speech.segment(1)
    with models.transformer as dit:
        text, audio = dit.encode_text(prompt), dit.encode_audio(windows)
        conditions = SegmentConditions(text=text, audio=audio, image_latents=image_latents)
        wanted = batched_branches(dit, renderer.run, conditions)(noisy, 2)
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
    latents = drawn(6, 1, 16, 9, 8, 8)
    with models.vae as vae:
        wanted = collect_frames(vae.decode(latents), 33)[0].permute(1, 2, 3, 0)
    unscaled = latents / models.config.vae.scaling_factor  # ComfyUI's LATENT
    images, motion = stages.run("Hallo3VAEDecode", samples={"samples": unscaled}, vae=stages.vae)
    assert difference(images, wanted) <= 1e-4
    assert difference(motion, wanted[-2:]) <= 1e-4


PROMPT = "a person in blue light"
RUNS = [("ddim", 1.0, ""), ("ddim", 1.0, PROMPT), ("dpmpp_2m_sde", 3.5, PROMPT)]


@pytest.mark.parametrize("run", RUNS)
def test_all_frames_are_near(stages: Stages, models: Models, settings: Any, recording: Any, run: Any) -> None:
    """Six segments with the package's noise, by the built-in model's sampler and the original's."""
    sampler, guidance, prompt = run
    settings, picture = replace(settings, guidance_scale=guidance, sampler=sampler), stages.picture
    rendered = hallo3.animate(picture, recording, prompt, models, settings)
    wanted = torch.cat([frames.pixels for frames in rendered]).permute(0, 2, 3, 1)
    positive = stages.encode_text(prompt) if prompt else None
    node = stages.original_sampler(sampler) if guidance != 1 else None
    inputs = stages.inputs(guidance_scale=guidance, positive=positive, sampler=node)
    video, images, *_ = stages.run("Hallo3Extrapolate", **inputs)
    assert difference(images, wanted) <= 1e-4
    components = video.get_components()
    assert components.frame_rate == 25
    longer = components.audio["waveform"].shape[-1] - recording.waveform.shape[-1]
    assert 0 <= longer < 640 + 1024  # to the end of the last frame, in packets


def test_segments_one_by_one_equal_extrapolate(stages: Stages) -> None:
    whole = stages.extrapolate(steps=2)
    pieces, motion = [], None
    for index in range(len(stages.speech.speech.plan)):
        latent = stages.run("Hallo3Sampler", **stages.inputs(segment=index, motion_frames=motion, steps=2))[0]
        inputs = {"samples": latent, "vae": stages.vae, "identity": stages.identity}
        images, motion = stages.run("Hallo3VAEDecode", **inputs)
        pieces.append(images)
    assert difference(torch.cat(pieces), whole) <= 1e-6


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "ddim"])
def test_the_original_as_sampler_and_sigmas_is_the_original(stages: Stages, sampler: str) -> None:
    """The nodes' outputs equal the defaults, which are ddim for the built-in model."""
    found = stages.sample(sampler=stages.original_sampler(sampler), sigmas=stages.original_schedule())
    assert (difference(found, stages.sample()) == 0) == (sampler == "ddim")


def test_comfyuis_wav2vec2_gives_the_features_of_transformers(stages: Stages, recording: Any) -> None:
    """At the real size, loaded by ComfyUI's loader (which stores half precision), computed in float32."""
    import comfy.audio_encoders.audio_encoders as encoders

    network = build_wav2vec2(SPEECH_ENCODERS["hallo3"])
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


GOLDENS = Path(__file__).resolve().parents[1] / "golden"


def written(folder: Path, golden: Golden, part: str, usual: str, prefix: str) -> Path:
    """A golden's weights as a file in the original's names, with our header."""
    tensors = networks.weights_of(golden, usual).tensors
    named = {prefix + name.removeprefix(prefix): tensor.contiguous() for name, tensor in tensors.items()}
    header = {"part": part, "config": to_dict(networks.config_of(golden.about))}
    path = folder / f"{part}.safetensors"
    save_file(named, path, metadata={"hallo3": json.dumps(header)})
    return path


@pytest.mark.parametrize("name", ["dit_forward_b1", "dit_forward_b2_cfg"])
def test_the_model_gives_the_golden(host: Host, tmp_path: Path, name: str) -> None:
    golden = read_golden(GOLDENS / f"{name}.json")
    path = written(tmp_path, golden, "transformer", networks.TRANSFORMER, maps.TRANSFORMER_PREFIX)
    patcher = host.module("nodes.comfy.loading").load_model(path)
    banks = tuple(golden[f"in.bank_{index}"] for index in range(patcher.model.config.trunk.layers))
    inputs = {"face_embedding": golden["in.face_emb"], "reference_features": banks}
    identity = host.module("hallo3.identity").Identity(space="golden", canvas=None, **inputs)
    wanted = swap(golden["out.final"])
    branches = len(wanted)

    def both(inputs: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(inputs), inputs))[-branches:]

    x = torch.cat((swap(golden["in.x"]), swap(golden["in.concat"])), dim=1)
    found = patcher.model.diffusion_model(
        x.expand(branches, -1, -1, -1, -1),
        golden["in.timestep"].flatten()[:1].expand(branches),
        both(golden["in.text"]),
        {},
        hallo3_identity=identity,
        hallo3_windows=both(golden["in.audio_windows"]),
    )
    assert difference(found, wanted) <= 1e-5


def test_the_reference_network_gives_the_golden(host: Host, tmp_path: Path) -> None:
    golden = read_golden(GOLDENS / "ref_net_forward.json")
    about = read_golden(GOLDENS / "dit_forward_b1.json").about  # a reference file tells of the whole model
    whole = Golden(golden.name, {**golden.about, "config": about["config"]}, golden.home)
    path = written(tmp_path, whole, "reference", networks.REFERENCE, maps.REFERENCE_PREFIX)
    loading = host.module("nodes.comfy.loading")
    features = loading.extract_features(loading.load_reference_network(path), swap(golden["in.ref_latent"]))
    for index in golden.names("out.bank_"):
        assert difference(features[int(index)], golden[f"out.bank_{index}"]) <= 1e-5
