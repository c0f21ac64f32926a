"""Values in sockets: every layout of sound and picture that nodes output, and one case per error. What a
recording or picture may contain is tested in ``tests/media``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.host import Host
from comfyui.stages import Stages, difference
from support.messages import collect_messages, expect_no_message

RATE = 16000
TIME = torch.arange(RATE) / RATE
TONE = 0.5 * torch.sin(2 * torch.pi * 440 * TIME)[None, None]
PICTURE = torch.rand(1, 96, 80, 3, generator=torch.Generator().manual_seed(1))


class LazyAudio(Mapping[str, Any]):
    """Audio that is no dict and decodes on access, as VideoHelperSuite outputs it."""

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read, self.reads = read, Counter[str]()

    def __getitem__(self, key: str) -> Any:
        self.reads[key] += 1
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("waveform", "sample_rate"))

    def __len__(self) -> int:
        return 2


def fail_to_read() -> dict[str, Any]:
    raise RuntimeError("ffmpeg gave up")


def sound(waveform: Any, rate: Any = RATE) -> dict[str, Any]:
    return {"waveform": waveform, "sample_rate": rate}


@pytest.fixture(scope="module")
def convert(host: Host) -> Any:
    return host.module("nodes.convert")


@pytest.fixture(scope="module")
def errors(host: Host) -> Any:
    return host.module("hallo3.errors")


@pytest.mark.parametrize(
    ("audio", "tolerance"),
    [
        (LazyAudio(lambda: sound(TONE)), 0.0),
        (sound(TONE, 16000.0), 0.0),
        (sound(TONE.double()), 0.0),
        (sound(TONE.repeat_interleave(2, dim=2)[..., ::2]), 0.0),
        (sound((TONE * 2**15).round().to(torch.int16)), 2**-16),
        (sound((TONE.double() * 2**31).round().to(torch.int32)), 1e-7),
        (sound((TONE * 128 + 128).round().to(torch.uint8)), 2**-8),
        (sound(TONE.half()), 2**-11),
        (sound(TONE.bfloat16()), 2**-8),
    ],
    ids=["mapping", "float rate", "f64", "strided", "i16", "i32", "u8", "f16", "bf16"],
)
def test_every_form_of_sound_is_the_same_recording(convert: Any, audio: Any, tolerance: float) -> None:
    recording = convert.to_recording(audio)
    assert recording.sample_rate == RATE
    assert difference(recording.waveform, TONE[0]) <= tolerance


def test_a_lazy_mapping_is_read_once(convert: Any) -> None:
    lazy = LazyAudio(lambda: sound(TONE))
    convert.to_recording(lazy)
    assert lazy.reads == {"waveform": 1, "sample_rate": 1}


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (None, r"No audio is connected(.|\n)*may have no sound track"),
        ([TONE, RATE], "cannot be used(.|\n)*a list"),
        ({"samples": TONE, "rate": RATE}, "audio without 'waveform'"),
        (LazyAudio(fail_to_read), "cannot be read: ffmpeg gave up"),
        (sound(TONE.numpy()), "a waveform that is a ndarray"),
        (sound(TONE[0]), r"\[1, 16000\](.|\n)*\[1, channels, samples\]"),
        (sound(TONE > 0), r"torch\.bool"),
        (sound(TONE[:0]), r"no recording in a waveform \[0, 1, 16000\]"),
        (sound(TONE.expand(3, -1, -1)), "several recordings(.|\n)*3 recordings"),
        (sound(torch.zeros(1, 9000, 2)), "9000 channels of 2 samples"),
        (sound(TONE, 16000.5), r"sample rate cannot be used(.|\n)*16000\.5"),
        (sound(TONE, True), "sample rate cannot be used(.|\n)*True"),
        (sound(TONE, None), "sample rate cannot be used(.|\n)*None"),
    ],
)
def test_other_values_are_no_audio(convert: Any, errors: Any, audio: Any, message: str) -> None:
    with pytest.raises(errors.AudioError, match=message):
        convert.to_recording(audio)


def transparent(alpha: float) -> Tensor:
    return torch.cat((PICTURE, torch.full_like(PICTURE[..., :1], alpha)), dim=-1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (transparent(1.0), PICTURE),
        (PICTURE[..., :1], PICTURE[..., :1].expand(-1, -1, -1, 3)),
        ((PICTURE * 255).round().to(torch.uint8), (PICTURE * 255).round() / 255),
        (PICTURE.double(), PICTURE),
        (PICTURE.half(), PICTURE.half().float()),
        ((PICTURE + 0.001).clamp_min(1 / 255), (PICTURE + 0.001).clamp(1 / 255, 1)),
    ],
    ids=["opaque", "gray", "u8", "f64", "f16", "rounding"],
)
def test_every_form_of_picture_is_the_same(convert: Any, image: Tensor, expected: Tensor) -> None:
    before = image.clone()
    with expect_no_message():
        picture = convert.to_picture(image)
    assert difference(picture, expected[0].permute(2, 0, 1)) == 0
    assert torch.equal(image, before)


def test_a_large_picture_is_not_copied(convert: Any) -> None:
    large = torch.rand(1, 512, 512, 3)
    assert convert.to_picture(large).data_ptr() == large.data_ptr()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (transparent(0.5), "transparent in places"),
        (PICTURE * 1.1, r"range from 0\.\d+ to 1\.\d+"),
        (PICTURE * 1.1 - 0.1, r"range from -0\.\d+ to"),
    ],
)
def test_a_doubtful_picture_is_used_with_one_warning(convert: Any, image: Tensor, message: str) -> None:
    with collect_messages() as messages:
        picture = convert.to_picture(image)
    assert len(messages) == 1
    assert re.search(message, messages[0])
    assert float(picture.amin()) >= 0
    assert float(picture.amax()) <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "wrong layout(.|\n)*nothing"),
        ("portrait.png", "wrong layout(.|\n)*a str"),
        (PICTURE[..., :2], r"wrong layout(.|\n)*\[1, 96, 80, 2\](.|\n)*\[1, height, width, 3\]"),
        (PICTURE.permute(0, 3, 1, 2), "wrong layout(.|\n)*put the channels last"),
        (PICTURE.expand(4, -1, -1, -1), "single picture(.|\n)*4 pictures"),
        (PICTURE > 0.5, r"values cannot be used(.|\n)*torch\.bool"),
        (PICTURE * 255, "values cannot be used(.|\n)*0 to 1"),
        (torch.full_like(PICTURE, float("nan")), "values cannot be used"),
        (torch.rand(1, 16, 4096, 3), "too small(.|\n)*4096 x 16 px"),
    ],
)
def test_other_values_are_no_portrait(convert: Any, errors: Any, image: Any, message: str) -> None:
    with pytest.raises(errors.PortraitError, match=message):
        convert.to_picture(image)


@pytest.mark.parametrize("box", [[], {}, "box", {"x": 0, "y": 0, "width": 0, "height": 5}, [[]]])
def test_other_values_are_no_face_box(convert: Any, errors: Any, box: Any) -> None:
    with pytest.raises(errors.InputError, match="face box is empty"):
        convert.to_face_box(box)


def test_parts_of_another_model_are_refused(stages: Stages, convert: Any, errors: Any) -> None:
    presets = stages.host.module("hallo3.config")
    parts = stages.identity, stages.speech, stages.vae
    convert.check_sizes(*parts, presets.BUILT_IN)
    with pytest.raises(errors.InputError, match="VAE was made for another model"):
        convert.check_sizes(*parts, presets.HALLO3)
    with pytest.raises(errors.InputError, match="identity was made for another model"):
        convert.check_sizes(*parts, replace(presets.HALLO3, vae=presets.BUILT_IN.vae))


@pytest.mark.parametrize("constant", [None, "", {}, 0])
def test_constants_in_sockets_are_refused(stages: Stages, errors: Any, constant: Any) -> None:
    """API prompts can pass them."""
    whole, one = stages.inputs(), stages.inputs(segment=0)
    conditions = {name: one[name] for name in one if name not in ("steps", "guidance_scale")}
    portrait = {"portrait": stages.portrait, "vae": stages.vae, "reference_network": stages.reference}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("Hallo3Extrapolate", whole, "identity speech model vae"),
        ("Hallo3Sampler", one, "identity speech model vae"),
        ("Hallo3SegmentConditioning", conditions, "identity speech model vae"),
        ("Hallo3VAEDecode", {"vae": stages.vae}, "samples"),
        ("Hallo3IdentityReference", portrait, "reference_network"),
    ]
    if constant is not None:
        cases += [("Hallo3Extrapolate", whole, "positive sampler sigmas guider")]
        cases += [("Hallo3IdentityReference", portrait, "face_analyzer")]
    for node, inputs, names in cases:
        for name in names.split():
            with pytest.raises(errors.InputError):
                stages.run(node, **{**inputs, name: constant})


def test_objects_of_other_kinds_are_refused_by_name(stages: Stages, errors: Any) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("Hallo3Extrapolate", {"vae": object()}, "This VAE is not Hallo3's"),
        ("Hallo3Extrapolate", {"model": object()}, "The model is not Hallo3's"),
        ("Hallo3Extrapolate", {"guider": object()}, "guider cannot be used"),
        ("Hallo3Extrapolate", {"sigmas": torch.tensor([1.0, 2.0])}, "sigmas cannot be sampled"),
        ("Hallo3Extrapolate", {"positive": [[torch.zeros(1, 226, 4096), {}]]}, "positive conditioning does"),
        ("Hallo3Sampler", {"segment": 6}, "no such segment"),
        ("Hallo3Sampler", {"segment": 1}, "need motion frames"),
        ("Hallo3Sampler", {"segment": 1, "motion_frames": torch.zeros(2, 64, 96, 3)}, "motion frames do not"),
    ]
    for node, changes, message in cases:
        with pytest.raises(errors.InputError, match=message):
            stages.run(node, **stages.inputs(**changes))
    with pytest.raises(errors.AudioError, match="recording is empty"):
        stages.run("Hallo3EncodeSpeech", audio=sound(TONE[..., :0]), audio_encoder=stages.audio_encoder)
    with pytest.raises(errors.InputError, match="audio encoder"):
        stages.run("Hallo3EncodeSpeech", audio=sound(TONE), audio_encoder=object())


def test_no_input_is_changed(stages: Stages) -> None:
    waveform, motion, text = torch.rand(1, 2, 20000), torch.rand(2, 64, 64, 3), torch.rand(1, 40, 32)
    positive: list[Any] = [[text, {"strength": 1.0}]]
    inputs = stages.portrait, waveform, motion, text
    before = [tensor.clone() for tensor in inputs]
    stages.run("Hallo3EncodeSpeech", audio=sound(waveform), audio_encoder=stages.audio_encoder)
    portrait = {"portrait": stages.portrait, "vae": stages.vae, "reference_network": stages.reference}
    stages.run("Hallo3IdentityReference", **portrait)
    segment = stages.inputs(segment=1, motion_frames=motion, positive=positive, steps=2)
    latent = stages.run("Hallo3Sampler", **segment)[0]
    samples = latent["samples"].clone()
    stages.run("Hallo3VAEDecode", samples=latent, vae=stages.vae)
    assert torch.equal(latent["samples"], samples)
    assert all(map(torch.equal, inputs, before))
    assert positive[0][1] == {"strength": 1.0}
