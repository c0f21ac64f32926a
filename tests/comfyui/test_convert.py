"""Values in sockets: every layout of sound and picture, and one case per error (``tests/media`` has more)."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.host import Host
from comfyui.stages import Stages, difference
from support.messages import collect_messages

RATE = 16000
TONE = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)[None, None]
PICTURE = torch.rand(1, 96, 80, 3, generator=torch.Generator().manual_seed(1))
NO_WIDTH = {"x": 0, "y": 0, "width": 0, "height": 5}


def sound(waveform: Any, rate: Any = RATE) -> dict[str, Any]:
    return {"waveform": waveform, "sample_rate": rate}


class LazyAudio(Mapping[str, Any]):
    """Audio that is no dict and decodes on access, as VideoHelperSuite outputs it."""

    def __init__(self, fault: str = "") -> None:
        self._fault, self.reads = fault, Counter[str]()

    def __getitem__(self, key: str) -> Any:
        self.reads[key] += 1
        if self._fault:
            raise RuntimeError(self._fault)
        return sound(TONE)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("waveform", "sample_rate"))

    def __len__(self) -> int:
        return 2


@pytest.fixture(scope="module")
def convert(host: Host) -> Any:
    return host.module("nodes.convert")


SOUNDS = {
    "mapping": (LazyAudio(), 0.0),
    "float rate": (sound(TONE, 16000.0), 0.0),
    "f64": (sound(TONE.double()), 0.0),
    "strided": (sound(TONE.repeat_interleave(2, dim=2)[..., ::2]), 0.0),
    "i16": (sound((TONE * 2**15).round().to(torch.int16)), 2**-16),
    "i32": (sound((TONE.double() * 2**31).round().to(torch.int32)), 1e-7),
    "u8": (sound((TONE * 128 + 128).round().to(torch.uint8)), 2**-8),
    "f16": (sound(TONE.half()), 2**-11),
    "bf16": (sound(TONE.bfloat16()), 2**-8),
}


@pytest.mark.parametrize(("audio", "tolerance"), SOUNDS.values(), ids=SOUNDS)
def test_every_form_of_sound_is_the_same_recording(convert: Any, audio: Any, tolerance: float) -> None:
    recording = convert.to_recording(audio)
    assert recording.sample_rate == RATE
    assert difference(recording.waveform, TONE[0]) <= tolerance


def test_a_lazy_mapping_is_read_once_and_a_large_picture_is_not_copied(convert: Any) -> None:
    lazy = LazyAudio()
    convert.to_recording(lazy)
    assert lazy.reads == {"waveform": 1, "sample_rate": 1}
    large = torch.rand(1, 512, 512, 3)
    assert convert.to_picture(large).data_ptr() == large.data_ptr()


def transparent(alpha: float) -> Tensor:
    return torch.cat((PICTURE, torch.full_like(PICTURE[..., :1], alpha)), dim=-1)


PICTURES = {
    "opaque": (transparent(1.0), PICTURE),
    "gray": (PICTURE[..., :1], PICTURE[..., :1].expand(-1, -1, -1, 3)),
    "u8": ((PICTURE * 255).round().to(torch.uint8), (PICTURE * 255).round() / 255),
    "f64": (PICTURE.double(), PICTURE),
    "f16": (PICTURE.half(), PICTURE.half().float()),
    "rounding": ((PICTURE + 0.001).clamp_min(1 / 255), (PICTURE + 0.001).clamp(1 / 255, 1)),
}


@pytest.mark.parametrize(("image", "expected"), PICTURES.values(), ids=PICTURES)
def test_every_form_of_picture_is_the_same(convert: Any, image: Tensor, expected: Tensor) -> None:
    before = image.clone()
    with collect_messages() as messages:
        picture = convert.to_picture(image)
    assert messages == []
    assert difference(picture, expected[0].permute(2, 0, 1)) == 0
    assert torch.equal(image, before)


def test_a_doubtful_picture_is_used_with_one_warning(convert: Any) -> None:
    for image, message in (
        (transparent(0.5), "transparent in places, which become white"),
        (PICTURE * 1.1, r"range from 0\.\d+ to 1\.\d+"),
        (PICTURE * 1.1 - 0.1, r"range from -0\.\d+ to"),
    ):
        with collect_messages() as messages:
            picture = convert.to_picture(image)
        assert [re.search(message, each) is not None for each in messages] == [True]
        assert 0 <= float(picture.amin()) <= float(picture.amax()) <= 1
        if "white" in message:
            assert float((picture - (PICTURE[0].permute(2, 0, 1) + 1) / 2).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("audio", None, r"No audio is connected(.|\n)*may have no sound track"),
        ("audio", [TONE, RATE], "cannot be used(.|\n)*a list"),
        ("audio", {"samples": TONE, "rate": RATE}, "audio without 'waveform'"),
        ("audio", LazyAudio("ffmpeg gave up"), "cannot be read: ffmpeg gave up"),
        ("audio", sound(TONE.numpy()), "a waveform that is a ndarray"),
        ("audio", sound(TONE[0]), r"\[1, 16000\](.|\n)*\[1, channels, samples\]"),
        ("audio", sound(TONE > 0), r"torch\.bool"),
        ("audio", sound(TONE[:0]), r"no recording in a waveform \[0, 1, 16000\]"),
        ("audio", sound(TONE.expand(3, -1, -1)), "several recordings(.|\n)*3 recordings"),
        ("audio", sound(torch.zeros(1, 9000, 2)), "9000 channels of 2 samples"),
        ("audio", sound(TONE, 16000.5), r"sample rate cannot be used(.|\n)*16000\.5"),
        ("audio", sound(TONE, True), "sample rate cannot be used(.|\n)*True"),
        ("audio", sound(TONE, None), "sample rate cannot be used(.|\n)*None"),
        ("image", None, "wrong layout(.|\n)*nothing"),
        ("image", "portrait.png", "wrong layout(.|\n)*a str"),
        ("image", PICTURE[..., :2], r"wrong layout(.|\n)*\[1, 96, 80, 2\](.|\n)*\[1, height, width, 3\]"),
        ("image", PICTURE.permute(0, 3, 1, 2), "wrong layout(.|\n)*put the channels last"),
        ("image", PICTURE.expand(4, -1, -1, -1), "single picture(.|\n)*4 pictures"),
        ("image", PICTURE > 0.5, r"values cannot be used(.|\n)*torch\.bool"),
        ("image", PICTURE * 255, "values cannot be used(.|\n)*0 to 1"),
        ("image", torch.full_like(PICTURE, float("nan")), "values cannot be used"),
        ("image", torch.rand(1, 16, 4096, 3), "too small(.|\n)*4096 x 16 px"),
        *(("box", box, "face box is empty") for box in ([], {}, "box", NO_WIDTH, [[]])),
    ],
)
def test_other_values_are_refused(host: Host, convert: Any, kind: str, value: Any, message: str) -> None:
    errors = host.module("hallo3.errors")
    audio, image = (convert.to_recording, errors.AudioError), (convert.to_picture, errors.PortraitError)
    read, error = {"audio": audio, "image": image, "box": (convert.to_face_box, errors.InputError)}[kind]
    with pytest.raises(error, match=message):
        read(value)


def test_parts_of_another_model_are_refused(stages: Stages, convert: Any) -> None:
    presets = stages.module("hallo3.config")
    parts = stages.identity, stages.speech, stages.vae
    convert.check_sizes(*parts, presets.BUILT_IN)
    with pytest.raises(stages.errors.InputError, match="VAE was made for another model"):
        convert.check_sizes(*parts, presets.HALLO3)
    with pytest.raises(stages.errors.InputError, match="identity was made for another model"):
        convert.check_sizes(*parts, replace(presets.HALLO3, vae=presets.BUILT_IN.vae))


@pytest.mark.parametrize("constant", [None, "", {}, 0])
def test_constants_in_sockets_are_refused(stages: Stages, constant: Any) -> None:
    """API prompts can pass them."""
    conditions = stages.inputs(segment=0, steps=None, guidance_scale=None)
    portrait = {"portrait": stages.portrait, "vae": stages.vae, "reference_network": stages.reference}
    parts, optional = "identity speech model vae ", constant is not None
    for node, inputs, names in (
        ("Hallo3Extrapolate", stages.inputs(), parts + "positive sampler sigmas guider" * optional),
        ("Hallo3Sampler", stages.inputs(segment=0), parts),
        ("Hallo3SegmentConditioning", conditions, parts),
        ("Hallo3VAEDecode", {"vae": stages.vae}, "samples"),
        ("Hallo3IdentityReference", portrait, "reference_network"),
    ):
        for name in names.split():
            with pytest.raises(stages.errors.InputError):
                stages.run(node, **{**inputs, name: constant})


def test_objects_of_other_kinds_are_refused_by_name(stages: Stages) -> None:
    for run, changes, message in (
        (stages.extrapolate, {"vae": object()}, "This VAE is not Hallo3's"),
        (stages.extrapolate, {"model": object()}, "The model is not Hallo3's"),
        (stages.extrapolate, {"guider": object()}, "guider cannot be used"),
        (stages.extrapolate, {"sigmas": torch.tensor([1.0, 2.0])}, "sigmas cannot be sampled"),
        (stages.extrapolate, {"positive": [[torch.zeros(1, 226, 4096), {}]]}, "positive conditioning does"),
        (stages.sample, {"segment": 6}, "no such segment(.|\n)*segment 7\n(.|\n)*1 to 6"),
        (stages.sample, {"segment": 1}, "need motion frames(.|\n)*segment 2 without(.|\n)*of segment 1"),
        (stages.sample, {"segment": 1, "motion_frames": torch.zeros(2, 64, 96, 3)}, "motion frames do not"),
    ):
        with pytest.raises(stages.errors.InputError, match=message):
            run(**changes)
    with pytest.raises(stages.errors.AudioError, match="recording is empty"):
        stages.encode_speech(TONE[..., :0])
    with pytest.raises(stages.errors.InputError, match="audio encoder"):
        stages.run("Hallo3EncodeSpeech", audio=sound(TONE), audio_encoder=object())


def test_no_input_is_changed(stages: Stages) -> None:
    waveform, motion, text = torch.rand(1, 2, 20000), torch.rand(2, 64, 64, 3), torch.rand(1, 40, 32)
    positive: list[Any] = [[text, {"strength": 1.0}]]
    inputs = stages.portrait, waveform, motion, text
    before = [tensor.clone() for tensor in inputs]
    stages.encode_speech(waveform)
    stages.create_identity()
    segment = stages.inputs(segment=1, motion_frames=motion, positive=positive, steps=2)
    latent = stages.run("Hallo3Sampler", **segment)[0]
    samples = latent["samples"].clone()
    stages.run("Hallo3VAEDecode", samples=latent, vae=stages.vae)
    assert torch.equal(latent["samples"], samples)
    assert all(map(torch.equal, inputs, before))
    assert positive[0][1] == {"strength": 1.0}
