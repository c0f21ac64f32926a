"""From ComfyUI's values to the package's and back, and whether they belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..hallo3.config import Hallo3Config
from ..hallo3.errors import AudioError, InputError, PortraitError, ShapeError, is_out_of_memory
from ..hallo3.geometry import PixelBox
from ..hallo3.identity import Identity
from ..hallo3.identity_file import check_model
from ..hallo3.media.audio import Recording, check_audio_format, sample_rate_error
from ..hallo3.media.image import check_picture
from ..hallo3.messages import logger
from ..hallo3.segments import Segment
from .comfy.model import config_of, fingerprint_of
from .comfy.speech import SpeechSocket
from .comfy.vae import check_vae

ROUNDING, OVERSHOOT = 0.5 / 255, 0.15
"""How far a picture's values may be beyond 0..1: without a word, and with one. Bicubic scaling goes 0.12 at
most."""
AUDIO = "an AUDIO with a waveform [1, channels, samples] and a sample rate"
CONNECT_AUDIO = "connect Load Audio, or any node that outputs AUDIO"
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
            fix="pass one recording at a time",
        )
    rate = _rate(sample_rate)
    check_audio_format(rate, *waveform.shape[1:])
    return Recording(_floats(waveform[0].cpu()), rate)


def _entries(audio: Any) -> tuple[Any, Any]:
    if audio is None:
        raise AudioError(
            "No audio is connected.",
            found="nothing: a source video may have no sound track",
            expected=AUDIO,
            fix=CONNECT_AUDIO,
        )
    if not isinstance(audio, Mapping):
        raise _no_audio(f"a {type(audio).__name__}")
    try:
        return audio["waveform"], audio["sample_rate"]
    except KeyError as error:
        raise _no_audio(f"audio without {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _no_audio(f"a sound that cannot be read: {error}") from error


def _rate(value: Any) -> int:
    """A whole number of samples a second, which may be written 16000.0."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise sample_rate_error(f"a sample rate of {value!r}")
    return int(value)


def _floats(waveform: Tensor) -> Tensor:
    """Samples around -1..1, whatever they were stored in; 8-bit sound is unsigned."""
    samples = waveform.to(torch.float32)
    if waveform.is_floating_point():
        return samples
    return (samples - (128 if waveform.dtype == torch.uint8 else 0)) / FULL_SCALE[waveform.dtype]


def _no_audio(found: str) -> AudioError:
    return AudioError("The audio cannot be used.", found=found, expected=AUDIO, fix=CONNECT_AUDIO)


def picture_of(image: Any) -> Tensor:
    """An IMAGE [1, h, w, C] -> a picture [3, h, w] in 0..1, of any floating point, or of 8 bits in 0..255.

    Grey becomes RGB. Warns of transparency, which is dropped as ComfyUI does, and of values beyond 0..1, as
    bicubic scaling makes them, which are cut. The picture may share the IMAGE's memory: do not write
    to it. Raises ``PortraitError`` for several pictures, other layouts and values that are no picture's.
    """
    _check_layout(image)
    if image.shape[3] == 4 and bool((image[..., 3] < (255 if image.dtype == torch.uint8 else 1)).any()):
        logger.warning(
            "The portrait is transparent in places: that is ignored, and what lies beneath is used."
        )
    picture = image[0, :, :, :3].permute(2, 0, 1).cpu()
    picture = (picture / 255 if picture.dtype == torch.uint8 else picture.float()).expand(3, -1, -1)
    low, high = float(picture.amin()), float(picture.amax())
    beyond = max(-low, high - 1)
    if ROUNDING < beyond <= OVERSHOOT:
        logger.warning(
            f"The portrait's values go beyond 0..1, from {low:.3f} to {high:.3f}, as bicubic scaling makes "
            "them: they are cut."
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
            fix="put the channels last, they seem to come first"
            if channels_first
            else "connect Load Image, or any node that outputs IMAGE",
        )
    if len(image) != 1:
        raise PortraitError(
            "The portrait must be a single picture.",
            found=f"{len(image)} pictures, {list(image.shape)}",
            expected=ONE_PICTURE,
            fix="select one with Get Image from Batch",
        )
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise PortraitError(
            "The portrait's values cannot be used.",
            found=f"values of {image.dtype}",
            expected="floating point from 0 to 1, or 8 bits from 0 to 255",
            fix="scale the picture to 0..1",
        )


def audio_of(recording: Recording) -> dict[str, Any]:
    """A recording as AUDIO."""
    return {"waveform": recording.waveform[None], "sample_rate": recording.sample_rate}


def face_mask_of(mask: Any, picture: Tensor) -> Tensor:
    """A MASK [1, h, w] -> [h, w], checked against the picture. Raises ``ShapeError``."""
    size = tuple(picture.shape[1:])
    if not isinstance(mask, Tensor) or tuple(mask.shape) not in ((1, *size), size):
        raise ShapeError(
            "The face mask does not fit the portrait.",
            found=str(list(mask.shape)) if isinstance(mask, Tensor) else f"a {type(mask).__name__}",
            expected=f"one mask of {size[1]} x {size[0]} px",
            fix="paint it on the portrait itself, with Open in Mask Editor",
        )
    if not bool((mask > 0.5).any()):
        raise InputError(
            "The face mask is empty.",
            found="no pixel is marked",
            expected="the face to be marked",
            fix="paint over the face, or disconnect face_mask",
        )
    return (mask.reshape(size) > 0.5).float().cpu()


def face_box_of(boxes: Any) -> PixelBox:
    """A BOUNDING_BOX, or the first of several -> a box in pixels. Raises ``InputError``."""
    box: Any = boxes
    while isinstance(box, list | tuple) and box:
        box = cast("Any", box)[0]
    fields = cast("dict[str, Any]", box)
    try:
        left, top, width, height = (float(fields[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _no_box(repr(boxes)[:100]) from error
    if not (width > 0 and height > 0 and math.isfinite(left + top + width + height)):
        raise _no_box(f"{width:g} x {height:g} px at {left:g}, {top:g}")
    return PixelBox(left, top, left + width, top + height)


def _no_box(found: str) -> InputError:
    return InputError(
        "The face box is empty.",
        found=found,
        expected="a BOUNDING_BOX with x, y, width and height in pixels of the portrait",
        fix="connect a node that detects faces, or disconnect face_box",
    )


def shown_of(identity: Identity) -> Tensor:
    """The overview of an identity as IMAGE; its canvas if it was saved without one."""
    if identity.preview is not None:
        return images_of(identity.preview[None].float() / 255)
    return images_of((identity.canvas.pixels[0].transpose(0, 1) + 1) / 2).clamp(0, 1)


def images_of(frames: Tensor) -> Tensor:
    """Frames [F, 3, H, W] -> IMAGE [F, H, W, 3]."""
    return frames.permute(0, 2, 3, 1).contiguous()


def motion_of(images: Any, canvas: Tensor, motion_frames: int) -> Tensor:
    """Motion frames as IMAGE [m, H, W, 3] -> [1, 3, m, H, W] in -1..1. Raises ``ShapeError``."""
    height, width = canvas.shape[-2:]
    wanted = (motion_frames, height, width, 3)
    if not isinstance(images, Tensor) or tuple(images.shape) != wanted:
        raise ShapeError(
            "The motion frames do not fit.",
            found=str(list(images.shape)) if isinstance(images, Tensor) else f"a {type(images).__name__}",
            expected=str(list(wanted)),
            fix="connect motion_frames of Hallo3 VAE Decode unchanged, including padding bars",
        )
    return images.permute(3, 0, 1, 2)[None].float().cpu() * 2 - 1


def segment_of(socket: SpeechSocket, index: int) -> Segment:
    """Segment ``index`` of a speech. Raises ``InputError`` outside the plan."""
    plan = socket.speech.plan
    if not 0 <= index < len(plan):
        raise InputError(
            "The speech has no such segment.",
            found=f"segment {index}",
            expected=f"0 to {len(plan) - 1}: {plan.frames} frames make {len(plan)} segments",
            fix="choose one of these, or use Hallo3 Extrapolate for all of them",
        )
    return plan[index]


def check_fit(identity: Identity, socket: SpeechSocket, vae: Any, model: Any) -> None:
    """Refuse an identity, a speech or a VAE that belongs to another MODEL. Raises ``InputError``, or
    ``CheckpointError`` for an identity out of another model's file."""
    config = config_of(model)
    check_sizes(identity, socket, vae, config)
    if identity.saved_info is not None:
        check_model(identity, config, lambda: fingerprint_of(model))


def check_sizes(identity: Identity, socket: SpeechSocket, vae: Any, config: Hallo3Config) -> None:
    """The same by sizes alone. Raises ``InputError``."""
    check_vae(vae, config.vae)
    check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
    check_socket(socket, SpeechSocket, "speech", "Hallo3 Encode Speech")
    shape, trunk, audio = config.segment.shape, config.trunk, config.audio
    found = (
        tuple(identity.canvas.pixels.shape[-2:]),
        len(identity.reference_features),
        tuple(identity.reference_features[0].shape[1:]),
        identity.face_embedding.shape[-1],
    )
    wanted = (
        (shape.height, shape.width),
        trunk.layers,
        (shape.latent.tokens_per_frame, trunk.width),
        config.face.embedding_dim,
    )
    _same("identity", found, wanted, "the reference network that belongs to the model")
    heard = socket.speech.read(range(1)).shape[1:]
    _same(
        "speech", tuple(heard), (audio.layers, audio.channels), "the audio encoder that belongs to the model"
    )
    _same("speech", socket.speech.plan.config, config.segment, "the audio encoder that belongs to the model")


def check_socket(value: object, kind: type, name: str, node: str) -> None:
    """Refuse what cannot come from the node of that name: ComfyUI passes constants on. Raises
    ``InputError``."""
    if not isinstance(value, kind):
        raise InputError(
            f"No {name} is connected.",
            found="nothing" if value is None else repr(value)[:60],
            expected=f"the output of {node}",
            fix=f"connect {node}",
        )


def _same(name: str, found: object, wanted: object, use: str) -> None:
    if found != wanted:
        raise InputError(
            f"The {name} was made for another model.",
            found=f"{name} of {found}",
            expected=str(wanted),
            fix=f"create it with {use}; built-in and released parts cannot be mixed",
        )
