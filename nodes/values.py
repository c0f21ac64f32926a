"""From ComfyUI's values to the package's and back, and whether they belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..hallo3.config import Hallo3Config
from ..hallo3.errors import AudioError, InputError, PortraitError, ShapeError
from ..hallo3.identity import Identity
from ..hallo3.media.picture import check_picture
from ..hallo3.media.sound import Recording
from ..hallo3.segments import Segment
from .host.speech import SpeechSocket
from .host.vae import check_vae

OVERSHOOT = 0.5
"""How far beyond 0..1 a scaled picture may reach."""


def recording_of(audio: Any) -> Recording:
    """An AUDIO, a dict or any other mapping -> a recording [channels, samples] in float32.

    Raises ``AudioError`` for no sound, several recordings at once, or a layout that is not ComfyUI's.
    """
    if not isinstance(audio, Mapping):
        raise _no_audio(f"a {type(audio).__name__}")
    try:
        waveform, sample_rate = audio["waveform"], audio["sample_rate"]
    except KeyError as error:
        raise _no_audio(f"audio without {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_audio(f"a sound that cannot be read: {error}") from error
    if not isinstance(waveform, Tensor) or waveform.ndim not in (2, 3):
        shape = f" {list(waveform.shape)}" if isinstance(waveform, Tensor) else ""
        raise _no_audio(f"a waveform that is a {type(waveform).__name__}{shape}")
    if waveform.dtype == torch.bool or waveform.is_complex():
        raise _no_audio(f"a waveform of {waveform.dtype}")
    if not isinstance(sample_rate, int | float) or not 1 <= sample_rate < math.inf:
        raise _no_audio(f"a sample rate of {sample_rate!r}")
    if waveform.ndim == 3:
        if len(waveform) != 1:
            raise AudioError(
                "The audio holds several recordings.",
                found=f"{len(waveform)} recordings",
                expected="one",
                do="pass one recording at a time",
            )
        waveform = waveform[0]
    return Recording(_floats(waveform.cpu()), int(sample_rate))


def _floats(waveform: Tensor) -> Tensor:
    """Samples around -1..1, whatever they were stored in; 8-bit sound is unsigned."""
    if waveform.is_floating_point():
        return waveform.to(torch.float32)
    if waveform.dtype == torch.uint8:
        return (waveform.to(torch.float32) - 128) / 128
    return waveform.to(torch.float32) / torch.iinfo(waveform.dtype).max


def _no_audio(found: str) -> AudioError:
    return AudioError(
        "There is no audio to listen to.",
        found=found,
        expected="an AUDIO with a waveform and a sample rate",
        do="connect Load Audio, or any node that puts out AUDIO",
    )


def audio_of(recording: Recording) -> dict[str, Any]:
    """A recording as AUDIO."""
    return {"waveform": recording.waveform[None], "sample_rate": recording.sample_rate}


def picture_of(image: Any) -> Tensor:
    """An IMAGE [1, h, w, C] -> a picture [3, h, w] in 0..1; transparency is dropped as ComfyUI does.

    Grey becomes RGB. ComfyUI's bicubic scaling goes a little beyond 0..1: that is cut. Raises
    ``PortraitError`` for several pictures, other layouts and values that are no picture's.
    """
    if not isinstance(image, Tensor) or image.ndim != 4 or len(image) != 1 or image.shape[3] not in (1, 3, 4):
        found = f"{list(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise PortraitError(
            "The portrait is not one picture.",
            found=found,
            expected="one picture [1, height, width, 3]",
            do="pick one with Get Image from Batch",
        )
    picture = image[0, :, :, :3].permute(2, 0, 1).float().cpu()
    picture = picture.expand(3, -1, -1)
    if float(picture.min()) >= -OVERSHOOT and float(picture.max()) <= 1 + OVERSHOOT:
        picture = picture.clamp(0, 1)
    return check_picture(picture.contiguous())


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


def check_fit(identity: Identity, socket: SpeechSocket, vae: Any, config: Hallo3Config) -> None:
    """Refuse an identity, a speech or a VAE that belongs to another model. Raises ``InputError``."""
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
