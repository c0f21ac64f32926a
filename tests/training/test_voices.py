"""Who says what: decided by split and number, and never the same in both splits."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from hallo3.errors import InputError
from training import voices
from training.sentences import LANGUAGES
from training.voices import VARIANTS, synthesise, utterance, utterance_named


def test_the_same_name_is_the_same_utterance() -> None:
    assert utterance_named("train", 3) == utterance_named("train", 3)
    assert utterance_named("train", 3) != utterance_named("train", 4)
    again = utterance_named("train", 3, attempt=1)
    assert again.text != utterance_named("train", 3).text
    assert again.voice == utterance_named("train", 3).voice


def test_no_sentence_and_no_speaker_is_in_both_splits() -> None:
    for phrases in LANGUAGES.values():
        assert not set(phrases.subjects("train")) & set(phrases.subjects("held-out"))
    assert not set(VARIANTS["train"]) & set(VARIANTS["held-out"])
    train, held_out = ([utterance_named(split, i) for i in range(300)] for split in VARIANTS)
    assert not {what.text for what in train} & {what.text for what in held_out}
    assert all(what.voice.split("+")[1] in VARIANTS["held-out"] for what in held_out)


@pytest.mark.parametrize("split", VARIANTS)
def test_most_of_it_is_english(split: str) -> None:
    spoken = [utterance_named(split, i).voice for i in range(300)]
    assert np.mean([voice.startswith("en") for voice in spoken]) > 0.6
    assert len({voice.split("+")[0] for voice in spoken}) == len(LANGUAGES)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no split 'test': train, held-out"):
        utterance_named("test", 0)


def test_without_espeak_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="apt install espeak-ng"):
        synthesise(tmp_path, 1, "train")


@pytest.mark.parametrize(("rate", "good"), [(16000, True), (22050, False)])
def test_an_utterance_is_read_at_16_khz_only(tmp_path: Path, rate: int, good: bool) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.array([0, 16384, -32768], "<i2").tobytes())
    if good:
        assert utterance(tmp_path / "a.wav").tolist() == [0.0, 0.5, -1.0]
    else:
        with pytest.raises(InputError, match="22050 Hz"):
            utterance(tmp_path / "a.wav")
