"""Split and number decide an utterance; the splits share no sentence and no speaker."""

from pathlib import Path

import numpy as np
import pytest

from hallo3.errors import InputError
from support.audio_samples import write_wav
from training import voices
from training.sentences import LANGUAGES
from training.voices import SPEAKERS, make_utterance, read_utterance, synthesise


def test_split_number_and_attempt_decide_the_utterance() -> None:
    assert make_utterance("train", 3) == make_utterance("train", 3)
    assert make_utterance("train", 3) != make_utterance("train", 4)
    again = make_utterance("train", 3, attempt=1)
    assert again.text != make_utterance("train", 3).text
    assert again.voice == make_utterance("train", 3).voice


def test_splits_share_no_sentence_and_no_speaker() -> None:
    for phrases in LANGUAGES.values():
        assert not set(phrases.subjects("train")) & set(phrases.subjects("held-out"))
    assert not set(SPEAKERS["train"]) & set(SPEAKERS["held-out"])
    utterances = {split: [make_utterance(split, i) for i in range(300)] for split in SPEAKERS}
    assert not {u.text for u in utterances["train"]} & {u.text for u in utterances["held-out"]}
    for split, each in utterances.items():
        assert all(u.voice.split("+")[1] in SPEAKERS[split] for u in each)
        assert np.mean([u.voice.startswith("en") for u in each]) > 0.6
        assert len({u.voice.split("+")[0] for u in each}) == len(LANGUAGES)


def test_an_unknown_split_and_a_missing_espeak_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no split 'test': train, held-out"):
        make_utterance("test", 0)
    monkeypatch.setattr(voices.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="apt install espeak-ng"):
        synthesise(tmp_path, 1, "train")


def test_only_16_khz_utterances_are_read(tmp_path: Path) -> None:
    samples = np.array([[0, 0.5, -1]])
    found = read_utterance(write_wav(tmp_path / "a.wav", samples, 16000))
    assert found == pytest.approx(samples[0], abs=1e-4)
    with pytest.raises(InputError, match="22050 Hz"):
        read_utterance(write_wav(tmp_path / "b.wav", samples, 22050))
