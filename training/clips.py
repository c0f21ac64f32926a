"""Scenes as the transformer's training data: latents, conditions and speech features, encoded once.

Chunks of ``CLIPS_PER_CHUNK`` clips are separate files: a stop loses at most one, and workers share the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hallo3.config import Hallo3Config
from hallo3.face.drawn import embed_face, mask_face
from hallo3.geometry import SPACE_FACTOR, PixelBox
from hallo3.media.canvas import drop_pixels
from hallo3.noise import make_generator
from hallo3.segments import SILENT, SegmentPlan, frame_count
from hallo3.speech.encoder import encode_waveform
from hallo3.speech.wav2vec2 import Wav2Vec2Parts, split_wav2vec2
from hallo3.vae.autoencoder import VideoVAE

from .augment import Waveform, make_augmenter
from .faces import Pixels
from .scenes import MAX_SPEAKERS, PRECEDING_FRAMES, Scene, make_scene, make_track
from .speech_encoder import load_speech_encoder
from .vae import load_vae

CLIPS_PER_CHUNK = 50
TRACKS_PER_CHUNK = 7
SPOKEN_SILENCE_SHARE = 0.5
"""Of people who do not speak: with a silent recording instead of none."""
BOX_ERROR = 0.05
"""Largest error of a head's edges, relative to its size."""
MOTION_NOISE_LOG_MEAN, MOTION_NOISE_LOG_STD = -3.0, 0.5
"""Of the log of the noise level on motion frames (facts 15)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneEncoders:
    """The trained networks that encode scenes."""

    config: Hallo3Config
    vae: VideoVAE
    speech: Wav2Vec2Parts
    silence: Tensor
    """Features [frames, layers, channels] of a silent recording."""


@dataclass(frozen=True, slots=True)
class Clips:
    """All chunks in memory: one tensor per key, and the prompts."""

    tensors: dict[str, Tensor]
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)


def chunk_path(folder: Path, index: int) -> Path:
    return folder / "clips" / f"{index:04d}.safetensors"


def load_clips(folder: Path, chunks: int) -> Clips:
    """All chunks of a run, in half precision."""
    opened = cast("Callable[..., Any]", safe_open)
    parts: list[dict[str, Tensor]] = []
    prompts: list[str] = []
    for index in range(chunks):
        path = str(chunk_path(folder, index))
        parts.append(load_file(path))
        with opened(path, framework="pt") as file:
            prompts += file.metadata()["prompts"].split("\n")
    return Clips({key: torch.cat([part[key] for part in parts]) for key in parts[0]}, prompts)


def make_chunk(folder: Path, seed: int, index: int, config: Hallo3Config) -> dict[str, float]:
    """Make one chunk in a worker process, on one thread, with the networks of the run in ``folder``."""
    torch.set_num_threads(1)
    started = time.process_time()
    vae = load_vae(folder, seed, config.vae, tuned_decoder=False)
    speech = split_wav2vec2(load_speech_encoder(folder).network)
    silence = encode_silence(speech, config)
    encode_chunk(folder, seed, index, SceneEncoders(config=config, vae=vae, speech=speech, silence=silence))
    return {"chunk": index, "cpu_seconds": round(time.process_time() - started, 1)}


def encode_chunk(folder: Path, seed: int, index: int, encoders: SceneEncoders) -> None:
    """Draw, encode and save ``CLIPS_PER_CHUNK`` scenes; a no-op if the file exists."""
    path = chunk_path(folder, index)
    if path.exists():
        return
    config = encoders.config
    voices = sorted((folder / "voices" / "train").glob("*.wav"))
    augmenter = make_augmenter(f"{seed}|clips|{index}", config.segment.sample_rate)
    names = [f"{seed}|clips|{index}|{k}" for k in range(TRACKS_PER_CHUNK)]
    tracks = [make_track(name, voices, augmenter, config.segment) for name in names]
    features = [encode_track(track.waveform, encoders.speech, config) for track in tracks]
    rows: list[dict[str, Tensor]] = []
    prompts: list[str] = []
    for number in range(CLIPS_PER_CHUNK):
        name = f"{seed}|clips|{index}|{number}"
        turns = (0, number // TRACKS_PER_CHUNK % (TRACKS_PER_CHUNK - 1) + 1)  # everyone has another track
        chosen = [(number + turn) % TRACKS_PER_CHUNK for turn in turns]
        scene = make_scene(name, [tracks[k] for k in chosen], config.segment)
        rows.append(encode_scene(scene, [features[k] for k in chosen], name, encoders))
        prompts.append(scene.prompt)
    stacked = {key: torch.stack([row[key] for row in rows]).contiguous() for key in rows[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(stacked, str(unfinished), metadata={"prompts": "\n".join(prompts)})
    unfinished.replace(path)


def encode_track(waveform: Waveform, speech: Wav2Vec2Parts, config: Hallo3Config) -> Tensor:
    """Speech features [padded, layers, channels] of samples, as a render computes them."""
    frames = frame_count(len(waveform), config.segment.sample_rate, config.segment.fps)
    plan = SegmentPlan(frames, config.segment)
    with torch.inference_mode():
        return encode_waveform(speech, torch.from_numpy(waveform), plan, torch.device("cpu"))


def encode_silence(speech: Wav2Vec2Parts, config: Hallo3Config) -> Tensor:
    """Features of three seconds of silence."""
    return encode_track(np.zeros(3 * config.segment.sample_rate, np.float32), speech, config)


@torch.inference_mode()
def encode_scene(
    scene: Scene, tracks: Sequence[Tensor], name: str, encoders: SceneEncoders
) -> dict[str, Tensor]:
    """The loss's inputs from one scene, in half precision; ``tracks`` has the features of everyone's speech.

    ``latents`` [C, T, h, w]; ``image`` [2, C, h, w], with the true motion frames and with rendered ones, as a
    preceding segment leaves them; ``face`` [C, h, w]; of up to S people, zeros for whom there is not:
    ``embedding`` [S, E], ``heads`` [S, 4] in pixels, ``rows`` [S, F + window - 1, layers,
    channels]; ``people``; ``first``; ``mouth`` [h, w], 1 where mouths are.
    """
    config, vae = encoders.config, encoders.vae
    size, motion_frames = (config.segment.height, config.segment.width), config.segment.motion_frames
    portrait = _to_tensor(scene.draw_portrait(*size)[None])
    frames = _to_tensor(scene.draw_frames(*size))
    clip = frames[:, :, PRECEDING_FRAMES:]
    r = make_generator(f"clip|{name}")
    picture = (portrait[0, :, 0] + 1) / 2
    heads = [_jitter(PixelBox(*box), r) for box in scene.locate_heads(size[0])]
    mask = torch.stack([mask_face(head, *size) for head in heads]).amax(dim=0)
    masked = (picture * mask)[None, :, None] * 2 - 1
    if scene.first:
        motions = [portrait.expand(-1, -1, motion_frames, -1, -1)] * 2
    else:
        preceding = frames[:, :, : PRECEDING_FRAMES + motion_frames]
        rendered = torch.cat(list(vae.decode(vae.encode(preceding))), dim=2)
        motions = [clip[:, :, :motion_frames], rendered[:, :, -motion_frames:].clamp(-1, 1)]
    images = [_encode_image(portrait, motion, f"{name}|{i}", encoders) for i, motion in enumerate(motions)]
    mouth = torch.zeros(size[0] // SPACE_FACTOR, size[1] // SPACE_FACTOR)
    for box in scene.locate_mouths(size[0]):
        left, top, right, bottom = (max(0, value) // SPACE_FACTOR for value in box)
        mouth[top : bottom + 1, left : right + 1] = 1
    rows = [
        _make_rows(features, slots, bool(r.random() < SPOKEN_SILENCE_SHARE), encoders)
        for features, slots in zip(tracks, scene.slots, strict=False)
    ]
    tensors = {
        "latents": vae.encode(clip)[0],
        "image": torch.cat(images),
        "face": vae.encode(masked)[0, :, 0],
        "embedding": _stack([embed_face(picture, head, config.face.embedding_dim)[0] for head in heads]),
        "heads": _stack([torch.tensor(head) for head in heads]),
        "rows": _stack(rows),
        "mouth": mouth,
        "people": torch.tensor(float(len(heads))),
        "first": torch.tensor(float(scene.first)),
    }
    return {key: value.half() for key, value in tensors.items()}


def _stack(people: Sequence[Tensor]) -> Tensor:
    """One tensor per person -> [S, ...], zeros for whom there is not."""
    missing = [torch.zeros_like(people[0])] * (MAX_SPEAKERS - len(people))
    return torch.stack([*people, *missing])


def _jitter(box: PixelBox, r: np.random.Generator) -> PixelBox:
    """A box as the detector finds it: a little beside the truth."""
    width, height = box.right - box.left, box.bottom - box.top
    shifts = r.uniform(-BOX_ERROR, BOX_ERROR, 4) * (width, height, width, height)
    return PixelBox(*(float(edge + shift) for edge, shift in zip(box, shifts, strict=True)))


def _make_rows(features: Tensor, slots: tuple[int, ...], spoken: bool, encoders: SceneEncoders) -> Tensor:
    """A person's rows. Who is silent has the features of a silent recording (``spoken``), or none."""
    window = encoders.config.audio.window
    if slots[-1] != SILENT:
        return feature_rows(features, slots, window)
    count = len(slots) + window - 1
    return encoders.silence[:count] if spoken else torch.zeros_like(encoders.silence[:count])


def feature_rows(features: Tensor, slots: tuple[int, ...], window: int) -> Tensor:
    """The features [F + window - 1, layers, channels] that the slots' windows cover, clamped at the ends."""
    reach = window // 2
    last = len(slots) - 1
    start = slots[-1] - last
    assert slots[0] in (SILENT, start)
    return features[torch.arange(start - reach, start + last + reach + 1).clamp(0, len(features) - 1)]


def make_windows(rows: Tensor, first: Tensor, window: int, silent: int) -> Tensor:
    """Rows [B, S, F + window - 1, ...] -> windows [B, S, F, window, ...]; a first segment begins silent."""
    windows = rows.unfold(2, window, 1).movedim(-1, 3).clone()
    windows[first > 0, :, :silent] = 0
    return windows


def normalize_weight(weight: Tensor, like: Tensor) -> Tensor:
    """A weight [B, h, w] as [B, C, T, h, w], with mean 1 in each sample."""
    full = weight[:, None, None].expand_as(like)
    return full / full.flatten(1).mean(dim=1)[:, None, None, None, None]


def _to_tensor(frames: Pixels) -> Tensor:
    """[F, h, w, 3] bytes -> [1, 3, F, h, w] in -1..1."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def _encode_image(portrait: Tensor, motion: Tensor, name: str, encoders: SceneEncoders) -> Tensor:
    """Latents [1, C, h, w] of the portrait and noisy motion frames with dropped pixels (facts 9 and 15)."""
    r = make_generator(f"motion noise|{name}")
    level = float(torch.exp(torch.tensor(r.normal(MOTION_NOISE_LOG_MEAN, MOTION_NOISE_LOG_STD))))
    noisy = motion + level * torch.from_numpy(r.standard_normal(tuple(motion.shape), dtype="float32"))
    draw = torch.from_numpy(r.random(tuple(motion.shape[-2:]), dtype="float32"))
    dropped = drop_pixels(noisy, draw, encoders.config.defaults.motion_drop)
    return encoders.vae.encode(torch.cat((portrait, dropped), dim=2))[:, :, 0]
