"""From ComfyUI's values to the package's and back, and whether they belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from ..hallo3.boxes import PixelBox
from ..hallo3.config import Hallo3Config
from ..hallo3.errors import InputError, ShapeError
from ..hallo3.identity import Identity
from ..hallo3.identity_file import check_made_for
from ..hallo3.media.sound import Recording
from ..hallo3.segments import Segment
from .given import picture_of as picture_of
from .given import recording_of as recording_of
from .host.model import config_of, fingerprint_of
from .host.speech import SpeechSocket
from .host.vae import check_vae


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
            do="draw it on the portrait itself, with Open in Mask Editor",
        )
    if not bool((mask > 0.5).any()):
        raise InputError(
            "The face mask is empty.",
            found="no pixel is marked",
            expected="the face to be marked",
            do="paint over the face, or disconnect face_mask",
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
        "There is no box round a face.",
        found=found,
        expected="a BOUNDING_BOX with x, y, width and height in pixels of the portrait",
        do="connect a node that detects faces, or disconnect face_box",
    )


def shown_of(identity: Identity) -> Tensor:
    """The overview of an identity as IMAGE; its canvas if it was saved without one."""
    if identity.overview is not None:
        return images_of(identity.overview[None].float() / 255)
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
            do="connect motion_frames of Hallo3 VAE Decode as they are, with their bars",
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
            do="choose one of these, or use Hallo3 Extrapolate for all of them",
        )
    return plan[index]


def check_fit(identity: Identity, socket: SpeechSocket, vae: Any, model: Any) -> None:
    """Refuse an identity, a speech or a VAE that belongs to another MODEL. Raises ``InputError``, or
    ``CheckpointError`` for an identity out of another model's file."""
    config = config_of(model)
    check_sizes(identity, socket, vae, config)
    if identity.saved is not None:
        check_made_for(identity, config, lambda: fingerprint_of(model))


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


def check_word(name: str, word: object, words: Sequence[str]) -> None:
    """Refuse a choice that a widget does not have: links and prompts bring any. Raises ``InputError``."""
    if word not in words:
        raise InputError(
            f"There is no such choice of {name}.",
            found=repr(word)[:60],
            expected=" or ".join(words),
            do="choose one of these",
        )


def check_socket(value: object, kind: type, name: str, node: str) -> None:
    """Refuse what cannot come from the node of that name: ComfyUI passes constants on. Raises
    ``InputError``."""
    if not isinstance(value, kind):
        raise InputError(
            f"There is no {name}.",
            found="nothing" if value is None else repr(value)[:60],
            expected=f"what {node} puts out",
            do=f"connect {node}",
        )


def _same(name: str, found: object, wanted: object, use: str) -> None:
    if found != wanted:
        raise InputError(
            f"The {name} was made for another model.",
            found=f"{name} of {found}",
            expected=str(wanted),
            do=f"make it with {use}; built-in and real parts cannot be mixed",
        )
