"""Synthetic speech by espeak-ng: who speaks and what is said are decided by a split's name and a number."""

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

from .sentences import LANGUAGES, SPLITS, sentence

SAMPLE_RATE = 16000
SHORTEST, LONGEST = 4.0, 8.0
"""Seconds of an utterance."""
VARIANTS = {
    "train": ("m1", "m2", "m3", "m5", "m6", "f1", "f2", "f4"),
    "held-out": ("m4", "m7", "f3", "f5"),
}
"""espeak-ng's speakers; those of one split are not in the other."""
ENGLISH_SHARE = {"train": 0.65, "held-out": 0.75}
TRIES = 40
Waveform = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What is said and how: speed in words a minute, pitch 0..99, silence before and after in seconds."""

    text: str
    voice: str
    speed: int
    pitch: int
    before: float
    after: float


def utterance_named(split: str, number: int, attempt: int = 0) -> Utterance:
    """The same split, number and attempt are the same utterance, the voice whatever the attempt.

    Raises ``ValueError`` for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: {', '.join(SPLITS)}")
    r = make_generator(f"voice|{split}|{number}")
    english = bool(r.random() < ENGLISH_SHARE[split])
    names = [name for name in LANGUAGES if name.startswith("en") == english]
    language = names[r.integers(len(names))]
    variant = VARIANTS[split][r.integers(len(VARIANTS[split]))]
    r = make_generator(f"utterance|{split}|{number}|{attempt}")
    return Utterance(
        text=sentence(r, language, split, int(r.integers(2, 4))),
        voice=f"{language}+{variant}",
        speed=int(r.integers(120, 191)),
        pitch=int(r.integers(25, 81)),
        before=_silence(r),
        after=_silence(r),
    )


def synthesise(folder: Path, count: int, split: str, workers: int = 2) -> list[Path]:
    """Write ``folder/split/00000.wav`` ... (16 kHz, mono, 16 bit, 4 to 8 s) and an ``index.json`` of texts.

    Files that are there stay. Raises ``InputError`` without espeak-ng, ``ValueError`` for another split.
    """
    if shutil.which("espeak-ng") is None:
        raise InputError(
            "There is nobody to speak.",
            found="no espeak-ng",
            expected="the program espeak-ng on the path",
            fix="install it: apt install espeak-ng, or brew install espeak-ng",
        )
    place = folder / split
    place.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        said = list(pool.map(lambda number: _write(place, split, number), range(count)))
    index = {f"{number:05d}.wav": asdict(what) for number, what in enumerate(said)}
    text = json.dumps(index, indent=1, ensure_ascii=False)
    unfinished = place / "index.unfinished"
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(place / "index.json")
    return [place / name for name in index]


def utterance(path: Path) -> Waveform:
    """Mono samples [n] in -1..1 at 16 kHz; raises ``InputError`` for a file of another kind."""
    with wave.open(str(path)) as file:
        kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if kind != (1, 2, SAMPLE_RATE):
            raise InputError(
                f"{path.name} is no utterance of ours.",
                found="{} channels, {} bytes a sample, {} Hz".format(*kind),
                expected=f"1 channel, 2 bytes a sample, {SAMPLE_RATE} Hz",
                fix="convert it, or delete it and synthesise again",
            )
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return samples.astype(np.float32) / 32768


def _silence(r: np.random.Generator) -> float:
    """Seconds: none for two in three."""
    return round(float(r.uniform(0.2, 0.6)), 3) if r.random() < 1 / 3 else 0.0


def _write(place: Path, split: str, number: int) -> Utterance:
    path, note = place / f"{number:05d}.wav", place / f"{number:05d}.json"
    if path.exists() and note.exists():
        return Utterance(**json.loads(note.read_text(encoding="utf-8")))
    for attempt in range(TRIES):
        what = utterance_named(split, number, attempt)
        samples = _speak(what, place / f"{number:05d}.spoken")
        if SHORTEST <= len(samples) / SAMPLE_RATE <= LONGEST:
            break
    else:
        raise RuntimeError(f"no utterance of {SHORTEST} to {LONGEST} s in {TRIES} attempts")
    note.write_text(json.dumps(asdict(what), ensure_ascii=False), encoding="utf-8")
    _save(path, samples)
    return what


def _speak(what: Utterance, spoken: Path) -> Waveform:
    options = ["-v", what.voice, "-s", str(what.speed), "-p", str(what.pitch), "-w", str(spoken)]
    subprocess.run(["espeak-ng", *options, what.text], check=True, capture_output=True)
    with wave.open(str(spoken)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
    spoken.unlink()
    heard = librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE)
    return np.pad(heard, (round(what.before * SAMPLE_RATE), round(what.after * SAMPLE_RATE)))


def _save(path: Path, samples: Waveform) -> None:
    unfinished = path.with_suffix(".unfinished")
    with wave.open(str(unfinished), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    unfinished.replace(path)
