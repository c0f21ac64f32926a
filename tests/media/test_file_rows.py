"""Sound files of every kind, row by row of the catalogue of bad inputs (M03 to M06)."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hallo3.errors import AudioError
from hallo3.media.audio import MISSING_SECONDS, read_recording, to_mono
from hallo3.media.mux import encode_soundtrack
from support.audio_files import encode_audio, video, wav
from support.audio_samples import RATE, tone
from support.messages import collect_messages

FRAME = 0.04
PCM = (tone(RATE, 1.0)[0] * 32767).astype("<i2")


FLOATS = np.arange(-8000, 8000, dtype="<f4") / 8000
DEEP = b"".join(int(value).to_bytes(3, "little", signed=True) for value in FLOATS * 2**23 * 0.5)
RIGHT: dict[str, tuple[bytes, tuple[int, int], float | None]] = {
    "plain": (wav(PCM.tobytes()), (1, 16000), PCM[4] / 2**15),
    "says more": (wav(PCM.tobytes(), size=10**9), (1, 16000), PCM[4] / 2**15),
    "says less": (wav(PCM.tobytes(), size=2000), (1, 1000), PCM[4] / 2**15),
    "says nothing": (wav(PCM.tobytes(), size=0), (1, 16000), None),
    "does not know": (wav(PCM.tobytes(), size=0xFFFFFFFF), (1, 16000), None),
    "half a sample": (wav(PCM.tobytes()[:-1]), (1, 15999), None),
    "a byte too many": (wav(PCM.tobytes() + b"x"), (1, 16000), None),
    "24 bits": (wav(DEEP, bits=24), (1, 16000), FLOATS[4] / 2),
    "32 floating": (wav(FLOATS.tobytes(), bits=32, kind=3), (1, 16000), FLOATS[4]),
    "64 floating": (wav(FLOATS.astype("<f8").tobytes(), bits=64, kind=3), (1, 16000), FLOATS[4]),
    "8 channels": (wav(np.repeat(PCM, 8).tobytes(), channels=8), (8, 16000), PCM[4] / 2**15),
    "64 channels": (wav(np.repeat(PCM, 64).tobytes(), channels=64), (64, 16000), PCM[4] / 2**15),
    "1 kHz": (wav(PCM.tobytes(), rate=1000), (1, 16000), None),
    "768 kHz": (wav(PCM.tobytes(), rate=768_000), (1, 16000), None),
}


@pytest.mark.parametrize(("content", "shape", "fifth"), RIGHT.values(), ids=[f"M03-{name}" for name in RIGHT])
def test_a_wav_has_the_samples_that_are_there(
    tmp_path: Path, content: bytes, shape: tuple[int, int], fifth: float | None
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with collect_messages() as said:
        recording = read_recording(path)
    assert tuple(recording.waveform.shape) == shape
    assert ["shorter than its header" in each for each in said] == [True] * (content == RIGHT["says more"][0])
    if fifth is not None:
        assert recording.waveform[:, 4].tolist() == pytest.approx([fifth] * shape[0], abs=1e-6)


MANY = [3, 6, 8, 9, 16, 64]


@pytest.mark.parametrize("channels", MANY, ids="M03-{}".format)
def test_any_number_of_channels_becomes_the_video_s_sound(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(np.repeat(PCM, channels).tobytes(), channels=channels))
    encode_soundtrack([(path, Fraction(1))], tmp_path / "sound.mp4")
    assert abs(read_recording(tmp_path / "sound.mp4").seconds - 1) <= 2 * FRAME


WRONG: dict[str, tuple[bytes, str]] = {
    "rate 0": (wav(PCM.tobytes(), rate=0), "cannot be read"),
    "rate 1": (wav(PCM.tobytes(), rate=1), r"sample rate cannot be used(.|\n)* 1 Hz(.|\n)*1000 to 768000"),
    "rate 999": (wav(PCM.tobytes(), rate=999), "999 Hz"),
    "rate 2 G": (wav(PCM.tobytes(), rate=2**31 - 1), "2147483647 Hz"),
    "rate 4 G": (wav(PCM.tobytes(), rate=2**32 - 1), "cannot be read"),
    "channels 0": (wav(PCM.tobytes(), channels=0), "cannot be read"),
    "channels 65": (wav(PCM.tobytes() * 65, channels=65), "65 channels(.|\n)*at most 64"),
    "channels 255": (wav(PCM.tobytes() * 20, channels=255), "255 channels"),
    "channels 65535": (wav(PCM.tobytes() * 50, channels=65535), "cannot be read"),
    "0 bits": (wav(PCM.tobytes(), bits=0), "no audio that can be read"),
    "unknown": (wav(PCM.tobytes(), kind=9999), "no audio that can be read"),
    "no content": (wav(), "empty"),
}


@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=[f"M03-{name}" for name in WRONG])
def test_a_wav_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=said):
        read_recording(tmp_path / "a.wav")


def test_m03_nan_in_a_file_is_located(tmp_path: Path) -> None:
    spoilt = FLOATS.copy()
    spoilt[8000:] = np.nan
    (tmp_path / "a.wav").write_bytes(wav(spoilt.tobytes(), bits=32, kind=3))
    with pytest.raises(AudioError, match=r"0\.500 s"):
        to_mono(read_recording(tmp_path / "a.wav"), RATE)


KINDS = [
    ("a.mp3", "libmp3lame"),
    ("a.aac", "aac"),
    ("a.m4a", "aac"),
    ("a.ogg", "libopus"),
    ("a.oga", "flac"),
    ("a.webm", "libopus"),
    ("a.flac", "flac"),
    ("a.aiff", "pcm_s16be"),
    ("a.caf", "alac"),
    ("a.mkv", "pcm_s24le"),
    ("a.mov", "pcm_s16le"),
]


@pytest.mark.parametrize(("name", "codec"), KINDS, ids=[f"M04-{name}-{codec}" for name, codec in KINDS])
def test_every_kind_of_sound_has_its_length(tmp_path: Path, name: str, codec: str) -> None:
    """To a frame; and without a word of an early end."""
    for seconds in (1.0, 2.3):
        recording = read_recording(encode_audio(tmp_path / name, tone(48000, seconds, 2), 48000, codec))
        assert abs(recording.seconds - seconds) <= FRAME
        assert recording.waveform.shape[0] == 2
        assert 0.4 < float(recording.waveform[:, 4800:-4800].abs().max()) < 0.6


VIDEOS = [("v.mp4", "mpeg4", "aac"), ("v.mkv", "libx264", "libopus"), ("v.avi", "mpeg4", "pcm_s16le")]


@pytest.mark.parametrize(("name", "codec", "sound"), VIDEOS, ids=[f"M04-{video[0]}" for video in VIDEOS])
def test_a_video_with_sound_is_heard_and_one_without_is_told(
    tmp_path: Path, name: str, codec: str, sound: str
) -> None:
    assert abs(read_recording(video(tmp_path / name, codec, sound, 2)).seconds - 2) <= FRAME
    with pytest.raises(AudioError, match=rf"no audio that can be read(.|\n)*{name}: 1 tracks"):
        read_recording(video(tmp_path / name, codec, None))


CUT = """
import json, random, sys
from pathlib import Path
from hallo3.errors import AudioError
from hallo3.media.audio import read_recording
from hallo3.messages import redirect_messages
whole, piece = Path(sys.argv[1]), Path(sys.argv[2])
content = whole.read_bytes()
for size in sorted(random.Random(5).sample(range(len(content)), 100)):
    piece.write_bytes(content[:size])
    said = []
    with redirect_messages(said.append):
        try:
            print(json.dumps([size, read_recording(piece).seconds, " ".join(said)]))
        except AudioError as error:
            print(json.dumps([size, None, str(error)]))
"""
STREAMED = {"a.ogg", "a.aac"}
"""Kinds that nowhere state their length."""
CUTS = [each for each in KINDS if each[0] not in ("a.oga", "a.caf", "a.mov")]
CUTS += [("a.wav", "pcm_s16le")]


@pytest.mark.parametrize(("name", "codec"), CUTS, ids=[f"M05-{name}" for name, _ in CUTS])
def test_a_cut_file_is_used_with_a_word_or_refused(tmp_path: Path, name: str, codec: str) -> None:
    """At a hundred places, in a process of its own that must not crash."""
    options = {"movflags": "faststart"} if name == "a.m4a" else {}
    whole = encode_audio(tmp_path / name, tone(48000, 2.0), 48000, codec, options=options)
    made = subprocess.run(
        [sys.executable, "-c", CUT, whole, tmp_path / f"cut{whole.suffix}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    outcomes = [json.loads(line) for line in made.stdout.splitlines()]
    assert len(outcomes) == 100
    for size, seconds, said in outcomes:
        if seconds is None:
            assert "Expected:" in said, size
            continue
        assert 0 < seconds <= 2 + FRAME, size
        if 2 - seconds > MISSING_SECONDS + FRAME and name not in STREAMED:
            assert float(said.split(" and ")[1].split()[0]) == pytest.approx(seconds, abs=0.02), size


CLOCKS = [(0, 0), (1.5, 0), (0, 0.7), (1.5, 0.7)]
TIMED = [
    ("a.mkv", "pcm_s16le"),
    ("a.m4a", "aac"),
    ("a.ogg", "libopus"),
    ("a.ts", "aac"),
    ("a.webm", "libopus"),
]


def clicking(rate: int, seconds: int) -> np.ndarray:
    """A click every quarter second."""
    samples = np.zeros((1, rate * seconds), np.float32)
    for start in range(rate // 4, rate * seconds, rate // 4):
        samples[:, start : start + 200] = 0.8 * np.sign(np.sin(np.arange(200) * 0.3))
    return samples


def clicks(path: Path) -> np.ndarray:
    loud = np.flatnonzero(np.abs(to_mono(read_recording(path), RATE).numpy()) > 0.3)
    return loud[np.diff(loud, prepend=-RATE) > 1000] / RATE


@pytest.mark.parametrize(
    ("start", "gap"), CLOCKS, ids=[f"M06-from {start} gap {gap}" for start, gap in CLOCKS]
)
@pytest.mark.parametrize(("name", "codec"), TIMED)
def test_what_is_heard_and_what_is_played_are_in_step(
    tmp_path: Path, name: str, codec: str, start: float, gap: float
) -> None:
    """Clocks that begin late or jump: the mouth follows the samples, and so does the video's sound."""
    path = encode_audio(tmp_path / name, clicking(48000, 3), 48000, codec, start=start, gap=gap)
    encode_soundtrack([(path, Fraction(3))], tmp_path / "sound.mp4")
    heard, played = clicks(path), clicks(tmp_path / "sound.mp4")
    assert len(heard) == len(played) == 11
    assert np.abs(heard - played).max() <= FRAME
    assert np.abs(heard - np.arange(1, 12) / 4).max() <= FRAME


CHANGES = {
    "M06-another rate": ("a.mp3", "libmp3lame", 44100, 1, {"write_xing": "0"}),
    "M06-another rate, AAC": ("a.aac", "aac", 44100, 1, {}),
    "M06-more channels": ("a.aac", "aac", 48000, 2, {}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_track_that_changes_underway_is_refused(
    tmp_path: Path, change: tuple[str, str, int, int, dict[str, str]]
) -> None:
    name, codec, rate, channels, options = change
    first = encode_audio(tmp_path / f"1{name}", tone(48000), 48000, codec, options=options)
    second = encode_audio(tmp_path / f"2{name}", tone(rate, channels=channels), rate, codec)
    (tmp_path / name).write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match="changes its format midway"):
        read_recording(tmp_path / name)
