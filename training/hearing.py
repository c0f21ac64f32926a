"""The speech encoder's stage: a small wav2vec2 learns to hear what a mouth does, then stays as it is.

A crop is treated as an utterance of its own, from normalisation on: the encoder's first norm runs over time,
so it could not know the level of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from behaviour.mouth import SPECTRUM, cut, mouth_of, normalised, spectra
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import BUILT_IN, BUILT_IN_SPEECH
from hallo3.noise import make_generator
from hallo3.segments import SegmentPlan, frame_count
from hallo3.speech.wav2vec2 import Wav2Vec2, _layers, build_wav2vec2, encode_waveform, stretch

from .sounds import Sounds, Waveform, sounds_named
from .stage import Run
from .voices import utterance

NAME = "hearing"
SAMPLE_RATE, FPS = BUILT_IN.segment.sample_rate, BUILT_IN.segment.fps
PER_FRAME = SAMPLE_RATE // FPS
MELS = 32
BATCH, LENGTHS = 8, (50, 66, 82, 100)
"""Crops a step, and their frames: few lengths, for which a CPU prepares its convolutions once."""
NOBODY, TAIL = 0.06, 0.25
"""Shares of crops in which nobody speaks, and that end in zeros as an encoder's input does."""
WEIGHTS = {"open": 4.0, "wide": 2.0, "mel": 0.3}
RATE, WARMUP = 3e-3, 50
AUDIBLE = 0.2
"""Opening from which a mouth's width is measured."""


class Heard(NamedTuple):
    """What should be heard: opening and width [B, F], bands [B, F, 32], and which crops [B] have bands."""

    open: Tensor
    wide: Tensor
    mel: Tensor
    speaks: Tensor


class Hearing(nn.Module):
    """``network`` is the speech encoder; ``head`` reads opening, width and 32 bands and is not shipped."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.network = build_wav2vec2(BUILT_IN_SPEECH)
        sizes = BUILT_IN_SPEECH["hidden_size"] * BUILT_IN_SPEECH["num_hidden_layers"]
        self.head = nn.Linear(sizes, 2 + MELS, device="meta")
        state = make_random_state(self, f"{seed}|{NAME}")
        for key, values in state.items():
            if "conv_layers" in key and values.ndim > 1:
                state[key] = math.sqrt(2) * values  # GELU halves the power
            if key.endswith("weight.original0"):
                direction = state[key.replace("original0", "original1")]
                state[key] = direction.norm(dim=(0, 1), keepdim=True)
        self.load_state_dict(state, assign=True)
        self.eval()  # nothing is dropped, in training neither

    def features(self, waveforms: Tensor, frames: int) -> Tensor:
        """Normalised waveforms [B, samples] -> [B, frames, layers, channels], as ``encode_waveform``."""
        ears = cast(Wav2Vec2, self.network)
        hidden = ears.feature_projection(stretch(ears.feature_extractor(waveforms), frames))[0]
        return torch.stack(list(_layers(ears.encoder, hidden)), dim=2)

    def read(self, features: Tensor) -> Tensor:
        """[..., layers, channels] -> [..., 2 + 32]: opening, width, bands."""
        return self.head(features.flatten(-2))


@dataclass(frozen=True, slots=True)
class Lessons:
    """Batches of crops, decided by seed and step alone."""

    voices: list[Waveform]
    sounds: Sounds
    bands: Tensor
    seed: int

    def batch(self, step: int) -> tuple[Tensor, Heard]:
        """Normalised, roughened waveforms [B, samples], and what is to be heard in the clean ones."""
        r = make_generator(f"{self.seed}|{NAME}|{step}")
        frames = LENGTHS[r.integers(len(LENGTHS))]
        inputs, targets = zip(*(self._crop(r, frames) for _ in range(BATCH)), strict=True)
        opened, wide, mel, speaks = (torch.from_numpy(np.stack(part)) for part in zip(*targets, strict=True))
        return torch.from_numpy(np.stack(inputs)), Heard(opened, wide, mel, speaks)

    def _crop(self, r: np.random.Generator, frames: int) -> tuple[Waveform, tuple[NDArray[np.float32], ...]]:
        samples = frames * PER_FRAME
        length = int(samples * r.uniform(0.5, 1.0)) if r.random() < TAIL else samples
        speaks = r.random() >= NOBODY
        if speaks:
            clean = _stretch_of(r, self.voices[r.integers(len(self.voices))], length)
            heard, mouth = self.sounds.roughened(r, clean), mouth_of(clean, frames, SAMPLE_RATE, FPS)
            opened, wide, mel = *mouth, self._mel(clean, frames)
        else:
            heard = self.sounds.nobody(r, length)
            opened, wide = np.zeros(frames, np.float32), np.full(frames, 0.5, np.float32)
            mel = np.zeros((frames, MELS), np.float32)
        return cut(normalised(heard), samples), (opened, wide, mel, np.float32(speaks))

    def _mel(self, clean: Waveform, frames: int) -> NDArray[np.float32]:
        power = torch.from_numpy(spectra(normalised(clean), frames, PER_FRAME)) ** 2
        return ((torch.log10(power @ self.bands.T + 1e-4) + 0.5) / 1.5).numpy()


def train_hearing(folder: Path, seed: int, steps: int = 1500) -> Hearing:
    """Train on ``folder/voices/train``, or go on, or load what is finished.

    Raises ``ValueError`` without utterances.
    """
    hearing, run = Hearing(seed), Run(folder=folder, name=NAME, steps=steps, seed=seed)
    if run.done() >= steps:
        return load_hearing(folder)
    paths = sorted((folder / "voices" / "train").glob("*.wav"))
    if not paths:
        raise ValueError(f"no utterances in {folder / 'voices' / 'train'}: synthesise them first")
    voices = [utterance(path) for path in paths]
    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=SPECTRUM, n_mels=MELS, fmin=60, fmax=7600)
    sounds = sounds_named(f"{seed}|{NAME}", SAMPLE_RATE)
    lessons = Lessons(voices, sounds, torch.from_numpy(bands), seed)
    optimiser = torch.optim.AdamW(hearing.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)

    def step(index: int) -> dict[str, float]:
        waveforms, heard = lessons.batch(index)
        losses = _losses(hearing.read(hearing.features(waveforms, heard.open.shape[1])), heard)
        sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(hearing.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = RATE * _share(index, steps)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    run.train(step, {"hearing": hearing, "optimiser": optimiser})
    return hearing.requires_grad_(False)


def load_hearing(folder: Path) -> Hearing:
    """What the checkpoint of the stage holds; ``.network`` is what is shipped."""
    hearing = Hearing(0)
    hearing.load_state_dict(Run(folder=folder, name=NAME, steps=0, seed=0).state("hearing"))
    return hearing.requires_grad_(False)


@torch.no_grad()
def listen(hearing: Hearing, waveform: Waveform) -> Tensor:
    """Mono [samples] -> [frames, 2 + 32], through the path that renders a video."""
    frames = frame_count(len(waveform), SAMPLE_RATE, FPS)
    plan = SegmentPlan(frames, BUILT_IN.segment)
    ears = cast(Wav2Vec2, hearing.network)
    features = encode_waveform(ears, torch.from_numpy(waveform), plan, torch.device("cpu"))
    return hearing.read(features)[:frames]


def evaluate(hearing: Hearing, voices: Iterable[Path], decibels: float = 15.0) -> dict[str, float]:
    """How well the rule is heard in utterances: correlations over all frames, clean and in pink noise.

    ``open*`` and ``wide*`` (frames that are open) are correlations, ``nobody`` the opening in pure noise.
    """
    sounds, r = sounds_named("evaluate", SAMPLE_RATE), make_generator("evaluate")
    found: dict[str, list[tuple[NDArray[np.float32], ...]]] = {"": [], "_noisy": []}
    for path in voices:
        clean = utterance(path)
        noisy = sounds.with_noise(r, clean, "pink", decibels)
        rule = mouth_of(clean, frame_count(len(clean), SAMPLE_RATE, FPS), SAMPLE_RATE, FPS)
        for kind, waveform in (("", clean), ("_noisy", noisy)):
            found[kind].append((*rule, *listen(hearing, waveform)[:, :2].numpy().T))
    figures: dict[str, float] = {}
    for kind, parts in found.items():
        opened, wide, heard_open, heard_wide = (np.concatenate(part) for part in zip(*parts, strict=True))
        clear = opened > AUDIBLE
        figures[f"open{kind}"] = float(np.corrcoef(opened, heard_open)[0, 1])
        figures[f"wide{kind}"] = float(np.corrcoef(wide[clear], heard_wide[clear])[0, 1])
        figures[f"open_error{kind}"] = float(np.abs(opened - heard_open).mean())
    noises = [sounds.noise(r, colour, 4 * SAMPLE_RATE) for colour in sounds.pools]
    figures["nobody"] = float(np.mean([listen(hearing, noise)[:, 0].mean() for noise in noises]))
    return figures


def _stretch_of(r: np.random.Generator, voice: Waveform, samples: int) -> Waveform:
    start = int(r.integers(max(1, voice.size - samples + 1)))
    return cut(voice[start:], samples)


def _losses(read: Tensor, heard: Heard) -> dict[str, Tensor]:
    bands = ((read[..., 2:] - heard.mel) ** 2).mean(dim=(1, 2))
    return {
        "open": F.mse_loss(read[..., 0], heard.open),
        "wide": F.mse_loss(read[..., 1], heard.wide),
        "mel": (bands * heard.speaks).sum() / heard.speaks.sum().clamp(min=1),
    }


def _share(step: int, steps: int) -> float:
    """The learning rate in shares of its highest: a short warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
