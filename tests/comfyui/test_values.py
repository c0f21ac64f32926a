"""What nodes are given: other layouts than expected, other models than ours, and nothing changed in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.stages import Stages, difference


class Lazy(Mapping[str, Any]):
    """Audio that is no dict, as VideoHelperSuite gives it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def heard(stages: Stages, audio: Any) -> Tensor:
    socket = stages.run("Hallo3EncodeSpeech", audio=audio, audio_encoder=stages.audio_encoder)[0]
    return socket.speech.segment(0)


def sound(waveform: Tensor) -> dict[str, Any]:
    return {"waveform": waveform, "sample_rate": 16000}


@pytest.fixture
def tone() -> Tensor:
    return 0.5 * torch.sin(torch.arange(16000) * 0.17)[None, None]


@pytest.mark.parametrize(
    ("changed", "tolerance"),
    [
        (lambda tone: Lazy(sound(tone)), 0.0),
        (lambda tone: sound(tone.double()), 1e-6),
        (lambda tone: sound(tone.expand(1, 3, -1)), 1e-5),
        (lambda tone: sound((tone * 32767).to(torch.int16)), 0.05),
        (lambda tone: sound(tone.bfloat16()), 0.5),
        (lambda tone: sound((tone * 127 + 128).to(torch.uint8)), 0.5),
    ],
    ids=["mapping", "double", "three channels", "int16", "bfloat16", "uint8"],
)
def test_any_layout_of_sound_is_heard(stages: Stages, tone: Tensor, changed: Any, tolerance: float) -> None:
    assert difference(heard(stages, changed(tone)), heard(stages, sound(tone))) <= tolerance


@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (None, "no audio"),
        ({}, "no audio"),
        ({"waveform": torch.zeros(1, 1, 9000)}, "sample_rate"),
        (sound(torch.zeros(2, 1, 9000)), "2 recordings"),
        (sound(torch.zeros(1, 1, 0)), "empty"),
        (sound(torch.full((1, 1, 9000), float("nan"))), "not numbers"),
        ({"waveform": "a path", "sample_rate": 16000}, "no audio"),
        (sound(torch.zeros(9000)), r"\[9000\]"),
        (sound(torch.zeros(2, 9000)), r"\[2, 9000\]"),
        ({"waveform": torch.ones(1, 1, 9000), "sample_rate": "x"}, "sample rate of 'x'"),
        (sound(torch.ones(1, 1, 9000, dtype=torch.bool)), "torch.bool"),
    ],
    ids=["none", "nothing", "no rate", "two", "empty", "nan", "text", "flat", "no batch", "rate", "bool"],
)
def test_no_sound_is_told(stages: Stages, audio: Any, said: str) -> None:
    with pytest.raises(stages.host.module("hallo3.errors").AudioError, match=said):
        heard(stages, audio)


def test_foreign_things_are_refused_by_name(stages: Stages) -> None:
    refused = stages.host.module("hallo3.errors").InputError
    with pytest.raises(refused, match="audio encoder is not the one"):
        stages.run("Hallo3EncodeSpeech", audio=sound(torch.ones(1, 1, 9000)), audio_encoder=object())
    with pytest.raises(refused, match="This VAE is not Hallo3's"):
        stages.run("Hallo3Extrapolate", **stages.given(vae=object()))
    with pytest.raises(refused, match="The model is not Hallo3's"):
        stages.run("Hallo3Extrapolate", **stages.given(model=object()))
    with pytest.raises(refused, match="guider cannot be used"):
        stages.run("Hallo3Extrapolate", **stages.given(guider=object()))
    with pytest.raises(refused, match="sigmas cannot be sampled"):
        stages.run("Hallo3Extrapolate", **stages.given(sigmas=torch.tensor([1.0, 2.0])))
    with pytest.raises(refused, match="positive conditioning does not fit"):
        stages.run("Hallo3Extrapolate", **stages.given(positive=[[torch.zeros(1, 226, 4096), {}]]))
    with pytest.raises(refused, match="no such segment"):
        stages.run("Hallo3Sampler", **stages.given(segment=6))
    with pytest.raises(refused, match="nothing to go on from"):
        stages.run("Hallo3Sampler", **stages.given(segment=1))
    with pytest.raises(refused, match="motion frames do not fit"):
        stages.run("Hallo3Sampler", **stages.given(segment=1, motion_frames=torch.zeros(2, 64, 96, 3)))
    with pytest.raises(refused, match="portrait is not one picture"):
        stages.run(
            "Hallo3IdentityReference",
            portrait=torch.zeros(2, 64, 64, 3), vae=stages.vae, reference_network=stages.reference,
        )  # fmt: skip


def identified(stages: Stages, image: Tensor) -> Any:
    given = {"portrait": image, "vae": stages.vae, "reference_network": stages.reference}
    return stages.run("Hallo3IdentityReference", **given)


def test_pictures_as_comfyui_makes_them(stages: Stages) -> None:
    """Bicubic overshoot is cut, grey is RGB, alpha is dropped, 0..255 is still refused."""
    plain = identified(stages, stages.portrait)[0].canvas.pixels
    over = stages.portrait * 1.04 - 0.01
    assert difference(identified(stages, over)[0].canvas.pixels, plain) < 0.2
    alpha = torch.cat((stages.portrait, torch.ones_like(stages.portrait[..., :1])), dim=-1)
    assert difference(identified(stages, alpha)[0].canvas.pixels, plain) == 0
    assert identified(stages, stages.portrait[..., :1])[0].canvas.pixels.shape == plain.shape
    with pytest.raises(stages.host.module("hallo3.errors").PortraitError, match="values cannot be used"):
        identified(stages, stages.portrait * 255)
    strip = identified(stages, torch.rand(1, 4000, 64, 3))[1]
    assert max(strip.shape[1:3]) < 4000


def test_parts_of_another_model_are_refused(stages: Stages) -> None:
    errors, presets = stages.host.module("hallo3.errors"), stages.host.module("hallo3.config")
    check = stages.host.module("nodes.convert").check_sizes
    check(stages.identity, stages.speech, stages.vae, presets.BUILT_IN)
    with pytest.raises(errors.InputError, match="VAE was made for another model"):
        check(stages.identity, stages.speech, stages.vae, presets.HALLO3)
    real_but_its_vae = replace(presets.HALLO3, vae=presets.BUILT_IN.vae)
    with pytest.raises(errors.InputError, match="identity was made for another model"):
        check(stages.identity, stages.speech, stages.vae, real_but_its_vae)


def test_plain_conditioning_is_refused_when_it_is_sampled(stages: Stages) -> None:
    import nodes

    plain = [[torch.zeros(1, 16, 32), {}]]
    empty = {"samples": torch.zeros(1, 16, 9, 8, 8)}
    with pytest.raises(stages.host.module("hallo3.errors").InputError, match="not made for Hallo3"):
        nodes.common_ksampler(stages.model, 0, 1, 3.5, "euler", "simple", plain, plain, empty)


@pytest.mark.parametrize("frames", [8, 10, 17])
def test_latents_of_another_length_are_refused(stages: Stages, frames: int) -> None:
    import nodes

    positive, negative, _ = stages.conditioning()
    wrong = {"samples": torch.zeros(1, 16, frames, 8, 8)}
    with pytest.raises(Exception, match="does not have a segment's length"):
        nodes.common_ksampler(stages.model, 0, 1, 3.5, "euler", "simple", positive, negative, wrong)


class Stranger:
    """A face analyzer of another embedding space."""

    space = "arcface-glintr100"

    def analyze(self, _: Tensor) -> Any:
        raise AssertionError("must not be asked")


def test_face_analyzer_and_mask(stages: Stages) -> None:
    """An analyzer of another space is refused; a mask decides what the reference network sees."""
    given = {"portrait": stages.portrait, "vae": stages.vae, "reference_network": stages.reference}
    with pytest.raises(stages.host.module("hallo3.errors").FaceError, match="does not belong"):
        stages.run("Hallo3IdentityReference", **given, face_analyzer=Stranger())
    mask = torch.zeros(1, *stages.portrait.shape[1:3])
    mask[:, 100:300, 150:330] = 1
    identity, overview = stages.run("Hallo3IdentityReference", **given, face_mask=mask)
    features = zip(identity.reference_features, stages.identity.reference_features, strict=True)
    assert all(difference(mine, theirs) > 1e-3 for mine, theirs in features)
    assert difference(identity.canvas.pixels, stages.identity.canvas.pixels) == 0
    assert overview.shape == (1, 960, 960, 3)


def test_nothing_given_is_changed(stages: Stages) -> None:
    """Portrait, sound, latents, conditioning and motion frames are the same after as before."""
    portrait, waveform = stages.portrait.clone(), torch.rand(1, 2, 20000)
    audio, motion = sound(waveform.clone()), torch.rand(2, 64, 64, 3)
    text = torch.rand(1, 40, 32)
    positive: list[Any] = [[text.clone(), {"strength": 1.0}]]
    stages.run("Hallo3EncodeSpeech", audio=audio, audio_encoder=stages.audio_encoder)
    stages.run(
        "Hallo3IdentityReference",
        portrait=stages.portrait, vae=stages.vae, reference_network=stages.reference,
    )  # fmt: skip
    shown = motion.clone()
    given = stages.given(segment=1, motion_frames=shown, positive=positive, steps=2)
    latent = stages.run("Hallo3Sampler", **given)[0]
    before = latent["samples"].clone()
    stages.run("Hallo3VAEDecode", samples=latent, vae=stages.vae)
    assert torch.equal(stages.portrait, portrait)
    assert torch.equal(audio["waveform"], waveform)
    assert torch.equal(shown, motion)
    assert torch.equal(latent["samples"], before)
    assert torch.equal(positive[0][0], text)
    assert positive[0][1] == {"strength": 1.0}
