"""Scenes as the transformer sees them: latents, conditions and feature rows, encoded once and kept.

Chunks of ``CHUNK`` clips are files of their own, so that a stop loses one chunk and several workers can share
the work.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3.config import Hallo3Config
from hallo3.face.registry import create_analyzer
from hallo3.geometry import SPACE_FACTOR
from hallo3.media.canvas import drop_pixels
from hallo3.noise import make_generator
from hallo3.segments import SILENT, SegmentPlan
from hallo3.speech.wav2vec2 import Wav2Vec2, encode_waveform
from hallo3.vae.autoencoder import VideoVAE

from .faces import Pixels
from .hearing import load_hearing
from .scenes import BEFORE, Recording, Scene, recording_named, scene_named
from .sounds import sounds_named
from .vae import finished_vae

CHUNK = 100
RECORDINGS_PER_CHUNK = 5
NOISE_MEAN, NOISE_SPREAD = -3.0, 0.5
"""log of the noise added to motion frames: its mean and deviation (facts 15)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """The finished networks of the earlier stages."""

    config: Hallo3Config
    vae: VideoVAE
    hearing: Wav2Vec2


def chunk_path(folder: Path, index: int) -> Path:
    """Where a chunk of clips is kept."""
    return folder / "clips" / f"{index:04d}.safetensors"


def make_chunk(folder: Path, seed: int, index: int, config: Hallo3Config) -> dict[str, float]:
    """One chunk in a process of its own, on one thread, with what the earlier stages left in the folder."""
    torch.set_num_threads(1)
    started = time.process_time()
    encoder = finished_vae(folder, seed, config.vae, sharpened=False)
    makers = Makers(config=config, vae=encoder, hearing=cast(Wav2Vec2, load_hearing(folder).network))
    encode_chunk(folder, seed, index, makers)
    return {"chunk": index, "cpu_seconds": round(time.process_time() - started, 1)}


def encode_chunk(folder: Path, seed: int, index: int, makers: Makers) -> None:
    """Draw and encode ``CHUNK`` scenes and keep them; nothing if that was done."""
    path = chunk_path(folder, index)
    if path.exists():
        return
    config = makers.config
    voices = sorted((folder / "voices" / "train").glob("*.wav"))
    sounds = sounds_named(f"{seed}|clips|{index}", config.segment.sample_rate)
    names = [f"{seed}|clips|{index}|{k}" for k in range(RECORDINGS_PER_CHUNK)]
    recordings = [recording_named(name, voices, sounds, config.segment) for name in names]
    features = [features_of(recording, makers) for recording in recordings]
    rows: list[dict[str, Tensor]] = []
    prompts: list[str] = []
    for number in range(CHUNK):
        name, k = f"{seed}|clips|{index}|{number}", number % RECORDINGS_PER_CHUNK
        scene = scene_named(name, recordings[k], config.segment)
        rows.append(encoded(scene, features[k], name, makers))
        prompts.append(scene.prompt)
    stacked = {key: torch.stack([row[key] for row in rows]).contiguous() for key in rows[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(stacked, str(unfinished), metadata={"prompts": "\n".join(prompts)})
    unfinished.replace(path)


def features_of(recording: Recording, makers: Makers) -> Tensor:
    """[padded, layers, channels], by the way a render goes."""
    plan = SegmentPlan(len(recording), makers.config.segment)
    with torch.inference_mode():
        return encode_waveform(makers.hearing, torch.from_numpy(recording.heard), plan, torch.device("cpu"))


@torch.inference_mode()
def encoded(scene: Scene, features: Tensor, name: str, makers: Makers) -> dict[str, Tensor]:
    """Everything the loss needs of one scene, in half precision.

    ``latents`` [C, T, h, w]; ``image`` [2, C, h, w], with the true motion frames and with such as a segment
    before would have left; ``face`` [C, h, w]; ``embedding`` [E]; ``rows`` [F + window - 1, layers,
    channels]; ``first``; ``mouth`` [h, w], 1 where the mouth is.
    """
    config = makers.config
    side, motion = config.segment.height, config.segment.motion_frames
    portrait = _pixels(scene.portrait(side)[None])
    frames = _pixels(scene.frames(side))
    clip = frames[:, :, BEFORE:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        face = create_analyzer(config.face).analyze((portrait[0, :, 0] + 1) / 2)
    masked = ((portrait + 1) / 2 * face.mask) * 2 - 1
    if scene.first:
        shown = [portrait.expand(-1, -1, motion, -1, -1)] * 2
    else:
        left = torch.cat(list(makers.vae.decode(makers.vae.encode(frames[:, :, : BEFORE + motion]))), dim=2)
        shown = [clip[:, :, :motion], left[:, :, -motion:].clamp(-1, 1)]
    images = [_image_latents(portrait, m, f"{name}|{i}", makers) for i, m in enumerate(shown)]
    left_edge, top, right, bottom = (value // SPACE_FACTOR for value in scene.mouth(side))
    mouth = torch.zeros(side // SPACE_FACTOR, side // SPACE_FACTOR)
    mouth[top : bottom + 1, left_edge : right + 1] = 1
    halves = {
        "latents": makers.vae.encode(clip)[0],
        "image": torch.cat(images),
        "face": makers.vae.encode(masked)[0, :, 0],
        "embedding": face.embedding[0],
        "rows": rows_around(features, scene.slots, config.audio.window),
        "mouth": mouth,
        "first": torch.tensor(float(scene.first)),
    }
    return {key: value.half() for key, value in halves.items()}


def rows_around(features: Tensor, slots: tuple[int, ...], window: int) -> Tensor:
    """[F + window - 1, layers, channels]: what the slots' windows are cut from, clamped at the ends."""
    reach = window // 2
    last = len(slots) - 1
    start = slots[-1] - last
    wanted = torch.arange(start - reach, start + last + reach + 1).clamp(0, len(features) - 1)
    assert slots[0] in (SILENT, start)
    return features[wanted]


def windows_of(rows: Tensor, first: Tensor, window: int, silent: int) -> Tensor:
    """Rows [B, F + window - 1, ...] -> windows [B, F, window, ...]; a first segment's prefix is silent."""
    windows = rows.unfold(1, window, 1).movedim(-1, 2).clone()
    windows[first > 0, :silent] = 0
    return windows


def _pixels(frames: Pixels) -> Tensor:
    """[F, h, w, 3] bytes -> [1, 3, F, h, w] in -1..1."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def _image_latents(portrait: Tensor, motion: Tensor, name: str, makers: Makers) -> Tensor:
    """Portrait and noisy motion frames with pixels dropped -> [1, C, h, w] (facts 9 and 15)."""
    r = make_generator(f"motion noise|{name}")
    level = float(torch.exp(torch.tensor(r.normal(NOISE_MEAN, NOISE_SPREAD))))
    noisy = motion + level * torch.from_numpy(r.standard_normal(tuple(motion.shape), dtype="float32"))
    draw = torch.from_numpy(r.random(tuple(motion.shape[-2:]), dtype="float32"))
    shown = torch.cat((portrait, drop_pixels(noisy, draw, makers.config.defaults.motion_drop)), dim=2)
    return makers.vae.encode(shown)[:, :, 0]


@dataclass(frozen=True, slots=True)
class Clips:
    """Chunks in memory, one tensor a kind, and the prompts beside them."""

    tensors: dict[str, Tensor]
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)


def load_clips(folder: Path, chunks: int) -> Clips:
    """All chunks of a run, in half precision."""
    parts: list[dict[str, Tensor]] = []
    prompts: list[str] = []
    for index in range(chunks):
        path = chunk_path(folder, index)
        parts.append(load_file(str(path)))
        prompts += _prompts(path)
    return Clips({key: torch.cat([part[key] for part in parts]) for key in parts[0]}, prompts)


def _prompts(path: Path) -> list[str]:
    from safetensors import safe_open

    opened = cast("Callable[..., Any]", safe_open)
    with opened(str(path), framework="pt") as file:
        return file.metadata()["prompts"].split("\n")


def spread(weight: Tensor, like: Tensor) -> Tensor:
    """A weight [B, h, w] for every latent of [B, C, T, h, w], of mean 1 in each sample."""
    full = weight[:, None, None].expand_as(like)
    return full / full.flatten(1).mean(dim=1)[:, None, None, None, None]
