"""The speech encoder's stage: a small wav2vec2 learns to predict mouth openings, widths and mel bands.

A crop is normalised on its own: the encoder's first norm runs over time, so it cannot know the level of the
rest of a recording.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from behaviour.mouth import SPECTRUM_SAMPLES, compute_mouth, compute_spectra, fit_length, normalise
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import BUILT_IN, SPEECH_ENCODERS
from hallo3.noise import make_generator
from hallo3.segments import SegmentPlan, frame_count
from hallo3.speech.encoder import encode_waveform, run_layers, stretch
from hallo3.speech.wav2vec2 import build_wav2vec2, split_wav2vec2

from .augment import Augmenter, Waveform, make_augmenter
from .stage import Run
from .voices import read_utterance

NAME = "hearing"
SAMPLE_RATE, FPS = BUILT_IN.segment.sample_rate, BUILT_IN.segment.fps
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
MEL_BANDS = 32
BATCH_SIZE, CROP_FRAMES = 8, (50, 66, 82, 100)
"""Few lengths, because a CPU prepares its convolutions once per length."""
NON_SPEECH_SHARE, PADDED_SHARE = 0.06, 0.25
"""Of crops: noise or silence only; ending in zeros, as an encoder's input does."""
LOSS_WEIGHTS = {"open": 4.0, "wide": 2.0, "mel": 0.3}
LEARNING_RATE, WARMUP_STEPS = 3e-3, 50
MIN_OPENING_FOR_WIDTH = 0.2


class Targets(NamedTuple):
    """Opening and width [B, F], mel bands [B, F, MEL_BANDS], and 1 for crops [B] with speech."""

    open: Tensor
    wide: Tensor
    mel: Tensor
    speaks: Tensor


class SpeechModel(nn.Module):
    """``network`` is the speech encoder; ``head`` predicts the targets and is not shipped."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.network = build_wav2vec2(SPEECH_ENCODERS["built-in"])
        encoder = SPEECH_ENCODERS["built-in"]
        sizes = encoder["hidden_size"] * encoder["num_hidden_layers"]
        self.head = nn.Linear(sizes, 2 + MEL_BANDS, device="meta")
        state = make_random_state(self, f"{seed}|{NAME}")
        for key, values in state.items():
            if "conv_layers" in key and values.ndim > 1:
                state[key] = math.sqrt(2) * values  # GELU halves the power
            if key.endswith("weight.original0"):
                direction = state[key.replace("original0", "original1")]
                state[key] = direction.norm(dim=(0, 1), keepdim=True)
        self.load_state_dict(state, assign=True)
        self.eval()  # no dropout, in training either

    def features(self, waveforms: Tensor, frames: int) -> Tensor:
        """Normalised waveforms [B, samples] -> [B, frames, layers, channels], as ``encode_waveform``."""
        parts = split_wav2vec2(self.network)
        hidden = parts.project(stretch(parts.extract(waveforms), frames))
        return torch.stack(list(run_layers(parts, hidden)), dim=2)

    def read(self, features: Tensor) -> Tensor:
        """[..., layers, channels] -> [..., 2 + MEL_BANDS]: opening, width, mel bands."""
        return self.head(features.flatten(-2))


@dataclass(frozen=True, slots=True)
class CropSampler:
    """Batches of crops that depend on seed and step only; ``bands`` is the mel filter bank."""

    voices: list[Waveform]
    augmenter: Augmenter
    bands: Tensor
    seed: int

    def draw_batch(self, step: int) -> tuple[Tensor, Targets]:
        """Normalised, augmented waveforms [B, samples], and the targets of the clean ones."""
        r = make_generator(f"{self.seed}|{NAME}|{step}")
        frames = CROP_FRAMES[r.integers(len(CROP_FRAMES))]
        inputs, targets = zip(*(self._draw_crop(r, frames) for _ in range(BATCH_SIZE)), strict=True)
        columns = zip(*targets, strict=True)
        return torch.from_numpy(np.stack(inputs)), Targets(*(torch.from_numpy(np.stack(c)) for c in columns))

    def _draw_crop(
        self, r: np.random.Generator, frames: int
    ) -> tuple[Waveform, tuple[NDArray[np.float32], ...]]:
        samples = frames * SAMPLES_PER_FRAME
        length = int(samples * r.uniform(0.5, 1.0)) if r.random() < PADDED_SHARE else samples
        speaks = r.random() >= NON_SPEECH_SHARE
        if speaks:
            voice = self.voices[r.integers(len(self.voices))]
            clean = fit_length(voice[int(r.integers(max(1, voice.size - length + 1))) :], length)
            waveform, mouth = self.augmenter.augment(r, clean), compute_mouth(clean, frames, SAMPLE_RATE, FPS)
            opening, width, mel = *mouth, self._log_mel(clean, frames)
        else:
            waveform = self.augmenter.make_non_speech(r, length)
            opening, width = np.zeros(frames, np.float32), np.full(frames, 0.5, np.float32)
            mel = np.zeros((frames, MEL_BANDS), np.float32)
        return fit_length(normalise(waveform), samples), (opening, width, mel, np.float32(speaks))

    def _log_mel(self, clean: Waveform, frames: int) -> NDArray[np.float32]:
        power = torch.from_numpy(compute_spectra(normalise(clean), frames, SAMPLES_PER_FRAME)) ** 2
        return ((torch.log10(power @ self.bands.T + 1e-4) + 0.5) / 1.5).numpy()


def train_speech_encoder(folder: Path, seed: int, steps: int = 1500) -> SpeechModel:
    """Train on ``folder/voices/train``, resume, or load a finished run.

    Raises ``ValueError`` without utterances.
    """
    model, run = SpeechModel(seed), Run(folder=folder, name=NAME, steps=steps, seed=seed)
    if run.completed_steps() >= steps:
        return load_speech_encoder(folder)
    paths = sorted((folder / "voices" / "train").glob("*.wav"))
    if not paths:
        raise ValueError(f"no utterances in {folder / 'voices' / 'train'}: synthesise them first")
    voices = [read_utterance(path) for path in paths]
    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=SPECTRUM_SAMPLES, n_mels=MEL_BANDS, fmin=60, fmax=7600)
    augmenter = make_augmenter(f"{seed}|{NAME}", SAMPLE_RATE)
    sampler = CropSampler(voices, augmenter, torch.from_numpy(bands), seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)

    def step(index: int) -> dict[str, float]:
        waveforms, targets = sampler.draw_batch(index)
        losses = _compute_losses(model.read(model.features(waveforms, targets.open.shape[1])), targets)
        sum(LOSS_WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * index / steps))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (min(1.0, (index + 1) / WARMUP_STEPS) * cosine)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    run.train(step, {"hearing": model, "optimiser": optimiser})
    return model.requires_grad_(False)


def load_speech_encoder(folder: Path) -> SpeechModel:
    model = SpeechModel(0)
    model.load_state_dict(Run(folder=folder, name=NAME, steps=0, seed=0).state("hearing"))
    return model.requires_grad_(False)


@torch.no_grad()
def predict(model: SpeechModel, waveform: Waveform) -> Tensor:
    """Mono [samples] -> [frames, 2 + MEL_BANDS], through the encoder call of a render."""
    frames = frame_count(len(waveform), SAMPLE_RATE, FPS)
    plan = SegmentPlan(frames, BUILT_IN.segment)
    parts = split_wav2vec2(model.network)
    features = encode_waveform(parts, torch.from_numpy(waveform), plan, torch.device("cpu"))
    return model.read(features)[:frames]


def evaluate(model: SpeechModel, voices: Iterable[Path], snr_db: float = 15.0) -> dict[str, float]:
    """Predictions against the mouth rule over all frames, clean and in pink noise.

    ``open*`` and ``wide*`` (open frames only) are correlations, ``nobody`` the opening in pure noise.
    """
    augmenter, r = make_augmenter("evaluate", SAMPLE_RATE), make_generator("evaluate")
    rows: dict[str, list[tuple[NDArray[np.float32], ...]]] = {"": [], "_noisy": []}
    for path in voices:
        clean = read_utterance(path)
        noisy = augmenter.add_noise(r, clean, "pink", snr_db)
        rule = compute_mouth(clean, frame_count(len(clean), SAMPLE_RATE, FPS), SAMPLE_RATE, FPS)
        for kind, waveform in (("", clean), ("_noisy", noisy)):
            rows[kind].append((*rule, *predict(model, waveform)[:, :2].numpy().T))
    figures: dict[str, float] = {}
    for kind, parts in rows.items():
        opening, width, predicted, predicted_width = (np.concatenate(c) for c in zip(*parts, strict=True))
        clear = opening > MIN_OPENING_FOR_WIDTH
        figures[f"open{kind}"] = float(np.corrcoef(opening, predicted)[0, 1])
        figures[f"wide{kind}"] = float(np.corrcoef(width[clear], predicted_width[clear])[0, 1])
        figures[f"open_error{kind}"] = float(np.abs(opening - predicted).mean())
    noises = [augmenter.draw_noise(r, colour, 4 * SAMPLE_RATE) for colour in augmenter.pools]
    figures["nobody"] = float(np.mean([predict(model, noise)[:, 0].mean() for noise in noises]))
    return figures


def _compute_losses(predicted: Tensor, targets: Targets) -> dict[str, Tensor]:
    bands = ((predicted[..., 2:] - targets.mel) ** 2).mean(dim=(1, 2))
    return {
        "open": F.mse_loss(predicted[..., 0], targets.open),
        "wide": F.mse_loss(predicted[..., 1], targets.wide),
        "mel": (bands * targets.speaks).sum() / targets.speaks.sum().clamp(min=1),
    }
