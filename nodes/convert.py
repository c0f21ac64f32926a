"""ComfyUI's values converted to the package's and back, and checks that they belong together."""

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
from ..hallo3.speakers import warn_of_speakers
from .comfy.model import config_of, model_fingerprint
from .comfy.progress import show_messages
from .comfy.speech import SpeechSocket
from .comfy.vae import check_vae

MAX_ROUNDING, MAX_OVERSHOOT = 0.5 / 255, 0.15
"""How far pixel values may lie outside 0..1 without and with a warning; bicubic scaling reaches 0.12."""
INTEGER_SCALES = {torch.uint8: 1 << 7, torch.int16: 1 << 15, torch.int32: 1 << 31}
AUDIO = "an AUDIO with a waveform [1, channels, samples] and a sample rate"
CONNECT_AUDIO = "connect Load Audio, or any node that outputs AUDIO"
ONE_PICTURE = "one picture [1, height, width, 3]"


def to_recording(audio: Any) -> Recording:
    """AUDIO, a dict or another mapping -> a recording [channels, samples] in float32.

    Reads each entry of a mapping once, because that may decode its file. Scales samples of 8 (unsigned), 16
    and 32 bits to -1..1. Raises ``AudioError``.
    """
    if audio is None:
        raise AudioError(
            "No audio is connected.",
            found="nothing: a source video may have no sound track",
            expected=AUDIO,
            fix=CONNECT_AUDIO,
        )
    if not isinstance(audio, Mapping):
        raise _audio_error(f"a {type(audio).__name__}")
    try:
        waveform, sample_rate = audio["waveform"], audio["sample_rate"]
    except KeyError as error:
        raise _audio_error(f"audio without {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _audio_error(f"audio that cannot be read: {error}") from error
    if not isinstance(waveform, Tensor) or waveform.ndim != 3:
        raise _audio_error(f"a waveform that is {describe_value(waveform)}")
    scale = 1 if waveform.is_floating_point() else INTEGER_SCALES.get(waveform.dtype)
    if scale is None:
        raise _audio_error(f"a waveform of {waveform.dtype}")
    if not len(waveform):
        raise _audio_error(f"no recording in a waveform {list(waveform.shape)}")
    if len(waveform) > 1:
        raise AudioError(
            "The audio holds several recordings.",
            found=f"{len(waveform)} recordings",
            expected="one",
            fix="pass one recording at a time",
        )
    whole = isinstance(sample_rate, int) or (isinstance(sample_rate, float) and sample_rate.is_integer())
    if isinstance(sample_rate, bool) or not whole:
        raise sample_rate_error(f"a sample rate of {sample_rate!r}")
    check_audio_format(int(sample_rate), *waveform.shape[1:])
    samples = waveform[0].cpu().to(torch.float32)
    if not waveform.is_floating_point():
        samples = (samples - (128 if waveform.dtype == torch.uint8 else 0)) / scale
    return Recording(samples, int(sample_rate))


def _audio_error(found: str) -> AudioError:
    return AudioError("The audio cannot be used.", found=found, expected=AUDIO, fix=CONNECT_AUDIO)


def describe_value(value: Any) -> str:
    """A value from another node in a few words, whatever it is."""
    if value is None:
        return "nothing"
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def to_picture(image: Any) -> Tensor:
    """IMAGE [1, h, w, C], floating point 0..1 or 8 bits -> a picture [3, h, w] in 0..1.

    Warns of transparency, which becomes white as in a file, and of values slightly outside 0..1, which it
    clips. The picture may share the IMAGE's memory: do not write to it. Raises ``PortraitError``.
    """
    _check_image(image)
    picture = image[0, :, :, :3].permute(2, 0, 1).cpu()
    picture = (picture / 255 if picture.dtype == torch.uint8 else picture.float()).expand(3, -1, -1)
    alpha = (
        image[0, :, :, 3].cpu().float() / (255 if image.dtype == torch.uint8 else 1)
        if image.shape[3] == 4
        else None
    )
    if alpha is not None and bool((alpha < 1).any()):
        logger.warning("The portrait is transparent in places, which become white.")
        picture = picture * (alpha := alpha.clamp(0, 1)) + 1 - alpha
    low, high = float(picture.amin()), float(picture.amax())
    overshoot = max(-low, high - 1)
    if MAX_ROUNDING < overshoot <= MAX_OVERSHOOT:
        logger.warning(
            f"The portrait's values range from {low:.3f} to {high:.3f}, as after bicubic scaling; they are "
            "clipped to 0..1."
        )
    return check_picture(picture.clamp(0, 1) if 0 < overshoot <= MAX_OVERSHOOT else picture)


def _check_image(image: Any) -> None:
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[3] not in (1, 3, 4):
        channels_first = isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] in (1, 3, 4)
        raise PortraitError(
            "The portrait has the wrong layout.",
            found=describe_value(image),
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


def to_audio(recording: Recording) -> dict[str, Any]:
    return {"waveform": recording.waveform[None], "sample_rate": recording.sample_rate}


def to_face_mask(mask: Any, picture: Tensor) -> Tensor:
    """MASK [1, h, w] -> [h, w] of 0 and 1. Raises ``ShapeError``, or ``InputError`` for an empty one."""
    size = tuple(picture.shape[1:])
    if not isinstance(mask, Tensor) or tuple(mask.shape) not in ((1, *size), size):
        raise ShapeError(
            "The face mask does not fit the portrait.",
            found=describe_value(mask),
            expected=f"one mask of {size[1]} x {size[0]} px",
            fix="paint it on the portrait itself, with Open in Mask Editor",
        )
    if not bool((mask > 0.5).any()):
        raise InputError(
            "The face mask is empty.",
            found="no marked pixel",
            expected="a mask over the face",
            fix="paint over the face, or disconnect face_mask",
        )
    return (mask.reshape(size) > 0.5).float().cpu()


def to_face_box(boxes: Any) -> PixelBox:
    """BOUNDING_BOX, or the first of several -> a box in pixels. Raises ``InputError``."""
    box: Any = boxes
    while isinstance(box, list | tuple) and box:
        box = cast("Any", box)[0]
    fields = cast("dict[str, Any]", box)
    try:
        left, top, width, height = (float(fields[name]) for name in ("x", "y", "width", "height"))
        if width > 0 and height > 0 and math.isfinite(left + top + width + height):
            return PixelBox(left, top, left + width, top + height)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise InputError(
        "The face box is empty.",
        found=repr(boxes)[:100],
        expected="a BOUNDING_BOX with x, y, width and height in pixels of the portrait",
        fix="connect a node that detects faces, or disconnect face_box",
    )


def to_preview(identity: Identity) -> Tensor:
    """The preview of an identity as IMAGE; its canvas if it has none."""
    if identity.preview is not None:
        return to_images(identity.preview[None].float() / 255)
    return to_images((identity.canvas.pixels[0].transpose(0, 1) + 1) / 2).clamp(0, 1)


def to_images(frames: Tensor) -> Tensor:
    """Frames [F, 3, H, W] -> IMAGE [F, H, W, 3]."""
    return frames.permute(0, 2, 3, 1).contiguous()


def to_motion(images: Any, canvas: Tensor, motion_frames: int) -> Tensor:
    """Motion frames as IMAGE [m, H, W, 3] -> [1, 3, m, H, W] in -1..1. Raises ``ShapeError``."""
    expected = (motion_frames, *canvas.shape[-2:], 3)
    if not isinstance(images, Tensor) or tuple(images.shape) != expected:
        raise ShapeError(
            "The motion frames do not fit.",
            found=describe_value(images),
            expected=str(list(expected)),
            fix="connect motion_frames of Hallo3 VAE Decode unchanged, including padding bars",
        )
    return images.permute(3, 0, 1, 2)[None].float().cpu() * 2 - 1


def get_segment(socket: SpeechSocket, index: int) -> Segment:
    """Segment ``index`` of a speech. Raises ``InputError`` outside the plan."""
    plan = socket.speech.plan
    if not 0 <= index < len(plan):
        raise InputError(
            "The speech has no such segment.",
            found=f"segment {index + 1}",
            expected=f"1 to {len(plan)}, so 0 to {len(plan) - 1} segments before it",
            fix="choose one of these, or use Hallo3 Talking Video for all of them",
        )
    return plan[index]


def check_fit(identity: Identity, socket: SpeechSocket, vae: Any, model: Any) -> None:
    """Raise ``InputError`` for parts of another MODEL, ``CheckpointError`` for such an identity file."""
    config = config_of(model)
    check_sizes(identity, socket, vae, config)
    if identity.saved_info is not None:
        check_model(identity, config, lambda: model_fingerprint(model))
    people = len(identity.people) or 1
    if socket.voices > people:
        raise InputError(
            "There are more voices than faces.",
            found=f"{socket.voices} voices, and {people} face{'s' * (people > 1)} in the identity",
            expected="a face for each voice",
            fix="choose the faces in Hallo3 Identity of Several People, or connect fewer voices",
        )
    if people > 1:
        with show_messages():
            warn_of_speakers(config.name, people)


def check_sizes(identity: Identity, socket: SpeechSocket, vae: Any, config: Hallo3Config) -> None:
    """Raise ``InputError`` if the sizes of identity, speech or VAE do not match ``config``."""
    check_vae(vae, config.vae)
    check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
    check_socket(socket, SpeechSocket, "speech", "Hallo3 Encode Speech")
    shape, trunk, features = config.segment.shape, config.trunk, identity.reference_features
    canvas, tokens = tuple(identity.canvas.pixels.shape[-2:]), tuple(features[0].shape[1:])
    found = canvas, len(features), tokens, identity.face_embedding.shape[-1]
    tokens = shape.latent.tokens_per_frame, trunk.width
    expected = (shape.height, shape.width), trunk.layers, tokens, config.face.embedding_dim
    _check_equal("identity", found, expected, "reference network")
    heard = tuple(socket.speech.read(range(1)).shape[1:])
    _check_equal("speech", heard, (config.audio.layers, config.audio.channels), "audio encoder")
    _check_equal("speech", socket.speech.plan.config, config.segment, "audio encoder")


def _check_equal(name: str, found: object, expected: object, network: str) -> None:
    if found != expected:
        raise InputError(
            f"The {name} was made for another model.",
            found=f"{name} of {found}",
            expected=str(expected),
            fix=f"create it with the {network} of the model; built-in and released parts cannot be mixed",
        )


def check_socket(value: object, kind: type, name: str, node: str) -> None:
    """Raise ``InputError`` unless a socket holds a ``kind``; API prompts may pass constants."""
    if not isinstance(value, kind):
        raise InputError(
            f"No {name} is connected.",
            found=describe_value(value),
            expected=f"the output of {node}",
            fix=f"connect {node}",
        )
