"""Sound and pictures as other nodes give them: in any layout that can be meant in one way only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..hallo3.errors import AudioError, PortraitError, is_short_of_memory
from ..hallo3.media.picture import check_picture
from ..hallo3.media.sound import Recording
from ..hallo3.media.sound_facts import check_form, no_rate

ROUNDING, OVERSHOOT = 0.5 / 255, 0.15
"""How far a picture's values may be beyond 0..1: without a word, and with one. Bicubic scaling goes 0.12 at
most."""
ONE_PICTURE = "one picture [1, height, width, 3]"
FULL_SCALE = {torch.uint8: 1 << 7, torch.int16: 1 << 15, torch.int32: 1 << 31}
"""What whole-number samples are divided by, as sound files have them."""


def recording_of(audio: Any) -> Recording:
    """An AUDIO, a dict or any other mapping -> a recording [channels, samples] in float32.

    A mapping is asked once for each entry, which may be when it reads its file. Samples of 8 (unsigned), 16
    and 32 bits are scaled to -1..1. Raises ``AudioError`` for no sound, several recordings at once, a layout
    that is not ComfyUI's, and a form that no recording of speech has.
    """
    waveform, sample_rate = _entries(audio)
    if not isinstance(waveform, Tensor) or waveform.ndim != 3:
        shape = f" {list(waveform.shape)}" if isinstance(waveform, Tensor) else ""
        raise _no_audio(f"a waveform that is a {type(waveform).__name__}{shape}")
    if not waveform.is_floating_point() and waveform.dtype not in FULL_SCALE:
        raise _no_audio(f"a waveform of {waveform.dtype}")
    if not len(waveform):
        raise _no_audio(f"no recording in a waveform {list(waveform.shape)}")
    if len(waveform) > 1:
        raise AudioError(
            "The audio holds several recordings.",
            found=f"{len(waveform)} recordings",
            expected="one",
            do="pass one recording at a time",
        )
    rate = _rate(sample_rate)
    check_form(rate, *waveform.shape[1:])
    return Recording(_floats(waveform[0].cpu()), rate)


def _entries(audio: Any) -> tuple[Any, Any]:
    if audio is None:
        raise _no_audio("nothing: a source video may have no sound track")
    if not isinstance(audio, Mapping):
        raise _no_audio(f"a {type(audio).__name__}")
    try:
        return audio["waveform"], audio["sample_rate"]
    except KeyError as error:
        raise _no_audio(f"audio without {error}") from error
    except Exception as error:
        if is_short_of_memory(error):
            raise
        raise _no_audio(f"a sound that cannot be read: {error}") from error


def _rate(value: Any) -> int:
    """A whole number of samples a second, which may be written 16000.0."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise no_rate(f"a sample rate of {value!r}")
    return int(value)


def _floats(waveform: Tensor) -> Tensor:
    """Samples around -1..1, whatever they were stored in; 8-bit sound is unsigned."""
    samples = waveform.to(torch.float32)
    if waveform.is_floating_point():
        return samples
    return (samples - (128 if waveform.dtype == torch.uint8 else 0)) / FULL_SCALE[waveform.dtype]


def _no_audio(found: str) -> AudioError:
    return AudioError(
        "There is no audio to listen to.",
        found=found,
        expected="an AUDIO with a waveform [1, channels, samples] and a sample rate",
        do="connect Load Audio, or any node that puts out AUDIO",
    )


def picture_of(image: Any) -> Tensor:
    """An IMAGE [1, h, w, C] -> a picture [3, h, w] in 0..1, of any floating point, or of 8 bits in 0..255.

    Grey becomes RGB. Warns of transparency, which is dropped as ComfyUI does, and of values beyond 0..1, as
    bicubic scaling makes them, which are cut. It may be the IMAGE's own memory, being large: nobody writes to
    it. Raises ``PortraitError`` for several pictures, other layouts and values that are no picture's.
    """
    _check_layout(image)
    if image.shape[3] == 4 and bool((image[..., 3] < (255 if image.dtype == torch.uint8 else 1)).any()):
        warnings.warn(
            "The portrait is transparent in places: that is ignored, and what lies beneath is used.",
            stacklevel=2,
        )
    picture = image[0, :, :, :3].permute(2, 0, 1).cpu()
    picture = (picture / 255 if picture.dtype == torch.uint8 else picture.float()).expand(3, -1, -1)
    low, high = float(picture.amin()), float(picture.amax())
    beyond = max(-low, high - 1)
    if ROUNDING < beyond <= OVERSHOOT:
        warnings.warn(
            f"The portrait's values go beyond 0..1, from {low:.3f} to {high:.3f}, as bicubic scaling makes "
            "them: they are cut.",
            stacklevel=2,
        )
    return check_picture(picture.clamp(0, 1) if 0 < beyond <= OVERSHOOT else picture)


def _check_layout(image: Any) -> None:
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[3] not in (1, 3, 4):
        shape = list(image.shape) if isinstance(image, Tensor) else []
        channels_first = len(shape) == 4 and shape[1] in (1, 3, 4)
        raise PortraitError(
            "The portrait has the wrong layout.",
            found=str(shape) if shape else "nothing" if image is None else f"a {type(image).__name__}",
            expected=ONE_PICTURE,
            do="put the channels last, they seem to come first"
            if channels_first
            else "connect Load Image, or any node that puts out IMAGE",
        )
    if len(image) != 1:
        raise PortraitError(
            "The portrait is not one picture.",
            found=f"{len(image)} pictures, {list(image.shape)}",
            expected=ONE_PICTURE,
            do="pick one with Get Image from Batch; every frame of an animation is one",
        )
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise PortraitError(
            "The portrait's values cannot be used.",
            found=f"values of {image.dtype}",
            expected="floating point from 0 to 1, or 8 bits from 0 to 255",
            do="scale the picture to 0..1",
        )
