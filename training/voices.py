"""Synthetic speech by espeak-ng: a split's name and a number decide speaker and text."""

from __future__ import annotations

import json
import shutil
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import librosa
import numpy as np
from numpy.typing import NDArray

from hallo3.errors import InputError
from hallo3.noise import make_generator

from .sentences import LANGUAGES, SPLITS, make_sentence

SAMPLE_RATE = 16000
MIN_SECONDS, MAX_SECONDS = 4.0, 8.0
SPEAKERS = {
    "train": ("m1", "m2", "m3", "m5", "m6", "f1", "f2", "f4"),
    "held-out": ("m4", "m7", "f3", "f5"),
}
"""Voice variants of espeak-ng; the splits share none."""
ENGLISH_SHARE = {"train": 0.65, "held-out": 0.75}
MAX_ATTEMPTS = 40
Waveform = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """Speed in words per minute, pitch 0..99, silence before and after in seconds."""

    text: str
    voice: str
    speed: int
    pitch: int
    before: float
    after: float


def make_utterance(split: str, number: int, attempt: int = 0) -> Utterance:
    """The same split, number and attempt give the same utterance; attempts share the voice.

    Raises ``ValueError`` for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: {', '.join(SPLITS)}")
    r = make_generator(f"voice|{split}|{number}")
    english = bool(r.random() < ENGLISH_SHARE[split])
    names = [name for name in LANGUAGES if name.startswith("en") == english]
    language = names[r.integers(len(names))]
    variant = SPEAKERS[split][r.integers(len(SPEAKERS[split]))]
    r = make_generator(f"utterance|{split}|{number}|{attempt}")
    return Utterance(
        text=make_sentence(r, language, split, int(r.integers(2, 4))),
        voice=f"{language}+{variant}",
        speed=int(r.integers(120, 191)),
        pitch=int(r.integers(25, 81)),
        before=_draw_silence(r),
        after=_draw_silence(r),
    )


def synthesise(folder: Path, count: int, split: str, workers: int = 2) -> list[Path]:
    """Write ``folder/split/00000.wav`` ... (16 kHz, mono, 16 bit, 4 to 8 s) and an ``index.json`` of texts.

    Existing files are kept. Raises ``InputError`` without espeak-ng, ``ValueError`` for an unknown split.
    """
    if shutil.which("espeak-ng") is None:
        raise InputError(
            "Speech synthesis needs espeak-ng.",
            found="no espeak-ng",
            expected="the program espeak-ng on the path",
            fix="install it: apt install espeak-ng, or brew install espeak-ng",
        )
    target = folder / split
    target.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        utterances = list(pool.map(lambda number: _write_utterance(target, split, number), range(count)))
    index = {f"{number:05d}.wav": asdict(utterance) for number, utterance in enumerate(utterances)}
    unfinished = target / "index.unfinished"
    unfinished.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(target / "index.json")
    return [target / name for name in index]


def read_utterance(path: Path) -> Waveform:
    """Mono samples [n] in -1..1 at 16 kHz; raises ``InputError`` for another format."""
    with wave.open(str(path)) as file:
        kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if kind != (1, 2, SAMPLE_RATE):
            raise InputError(
                f"{path.name} is not a file that this tool wrote.",
                found="{} channels, {} bytes per sample, {} Hz".format(*kind),
                expected=f"1 channel, 2 bytes per sample, {SAMPLE_RATE} Hz",
                fix="convert it, or delete it and synthesise again",
            )
        return _read_samples(file)


def _read_samples(file: wave.Wave_read) -> Waveform:
    return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768


def _draw_silence(r: np.random.Generator) -> float:
    """Seconds; two of three have none."""
    return round(float(r.uniform(0.2, 0.6)), 3) if r.random() < 1 / 3 else 0.0


def _write_utterance(folder: Path, split: str, number: int) -> Utterance:
    path, note = folder / f"{number:05d}.wav", folder / f"{number:05d}.json"
    if path.exists() and note.exists():
        return Utterance(**json.loads(note.read_text(encoding="utf-8")))
    for attempt in range(MAX_ATTEMPTS):
        utterance = make_utterance(split, number, attempt)
        samples = _speak(utterance, folder / f"{number:05d}.spoken")
        if MIN_SECONDS <= len(samples) / SAMPLE_RATE <= MAX_SECONDS:
            break
    else:
        raise RuntimeError(f"no utterance of {MIN_SECONDS} to {MAX_SECONDS} s in {MAX_ATTEMPTS} attempts")
    note.write_text(json.dumps(asdict(utterance), ensure_ascii=False), encoding="utf-8")
    unfinished = path.with_suffix(".unfinished")
    with wave.open(str(unfinished), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    unfinished.replace(path)
    return utterance


def _speak(utterance: Utterance, path: Path) -> Waveform:
    """Call espeak-ng, which writes ``path``; samples at 16 kHz with the utterance's silence."""
    options = ["-v", utterance.voice, "-s", str(utterance.speed), "-p", str(utterance.pitch), "-w", str(path)]
    subprocess.run(["espeak-ng", *options, utterance.text], check=True, capture_output=True)
    with wave.open(str(path)) as file:
        rate, samples = file.getframerate(), _read_samples(file)
    path.unlink()
    speech = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE)
    return np.pad(speech, (round(utterance.before * SAMPLE_RATE), round(utterance.after * SAMPLE_RATE)))
