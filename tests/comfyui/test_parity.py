"""The nodes give what the package gives alone, on the same weights and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hallo3
from comfyui.host import Host
from hallo3.face.analysis import analyze
from hallo3.load import load_models
from hallo3.models import Models
from hallo3.noise import seeded_noise
from hallo3.pipeline import encode_speech, identify
from hallo3.random_set import write_random_set

SEED = 5
STEPS = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The built-in set, headless."""
    folder = tmp_path_factory.mktemp("built-in")
    write_random_set(folder, 0, "tiny")
    return load_models(folder, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def picture(samples: Path) -> Tensor:
    return hallo3.read_picture(samples / "portrait.png")


@pytest.fixture(scope="module")
def recording(samples: Path) -> Any:
    return hallo3.read_recording(samples / "speech.wav")


class Nodes:
    """The stages as nodes put them out."""

    def __init__(self, host: Host, picture: Tensor, recording: Any) -> None:
        with torch.inference_mode():
            self.host = host
            loaded = host.node("Hallo3LoadBuiltIn").execute()
            self.model, self.reference, self.vae, self.audio_encoder = loaded.result
            audio = {"waveform": recording.waveform[None], "sample_rate": recording.sample_rate}
            self.speech = host.node("Hallo3EncodeSpeech").execute(audio, self.audio_encoder).result[0]
            image = picture.permute(1, 2, 0)[None]
            identity = host.node("Hallo3IdentityReference").execute(image, self.vae, self.reference)
            self.identity, self.overview = identity.result

    def given(self, **changes: Any) -> dict[str, Any]:
        return {
            "model": self.model,
            "vae": self.vae,
            "identity": self.identity,
            "speech": self.speech,
            "seed": SEED,
            "steps": STEPS,
            "guidance_scale": 3.5,
            "motion_drop": 0.1,
            **changes,
        }


@pytest.fixture(scope="module")
def nodes(host: Host, picture: Tensor, recording: Any) -> Nodes:
    return Nodes(host, picture, recording)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance


def test_speech_is_equal(nodes: Nodes, models: Models, recording: Any) -> None:
    wanted, found = encode_speech(recording, models), nodes.speech.speech
    assert found.plan.frames == wanted.plan.frames
    for index in range(len(wanted.plan)):
        close(found.segment(index), wanted.segment(index), 0.0)


def test_identity_is_equal(nodes: Nodes, models: Models, picture: Tensor) -> None:
    face = analyze(picture, models.face, models.config.face)
    settings = hallo3.settings_for(models.config.defaults, seed=SEED)
    wanted = identify(picture, face, models, settings, seeded_noise(SEED))
    close(nodes.identity.canvas.pixels, wanted.canvas.pixels, 0.0)
    close(nodes.identity.face_embedding, wanted.face_embedding, 0.0)
    for found, feature in zip(nodes.identity.reference_features, wanted.reference_features, strict=True):
        close(found, feature, 1e-5)


def test_all_frames_are_close(nodes: Nodes, models: Models, picture: Tensor, recording: Any) -> None:
    settings = hallo3.settings_for(models.config.defaults, seed=SEED, steps=STEPS)
    wanted = torch.cat([frames.pixels for frames in hallo3.animate(picture, recording, "", models, settings)])
    video, images = nodes.host.node("Hallo3Extrapolate").execute(**nodes.given()).result
    found = images.permute(0, 3, 1, 2)
    print("max", float((found - wanted).abs().max()))
    close(found, wanted, 1e-3)
    assert video.get_components().frame_rate == 25
