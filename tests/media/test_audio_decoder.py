"""The catalogue of hostile audio files: M02 and M08 reach beyond their own sound, M03 to M06 are damaged, odd
or of any format."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hallo3.errors import AudioError
from hallo3.media.audio import MISSING_SECONDS, read_recording, to_mono
from hallo3.media.mux import encode_soundtrack
from support.audio_files import encode_audio, video, wav
from support.audio_samples import RATE, tone
from support.messages import collect_messages, expect_message, expect_no_message


class Trap:
    """A named pipe and a server that note who opens them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "neighbour.wav"
        os.mkfifo(self.path)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.02)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/x.wav"
        self.visits: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        """A reader of the pipe waits until it is opened for writing, so none is missed."""
        while not self._stop.is_set():
            try:
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
                self.visits.append("file")
            except OSError:
                pass
            try:
                self._server.accept()[0].close()
                self.visits.append("server")
            except TimeoutError:
                pass

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    trap = Trap(tmp_path)
    yield trap
    trap.stop()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "list": "file '{}'\n",
    "HLS": HLS,
    "DASH": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="audio/wav"><Representation id="1" bandwidth="1000"><BaseURL>{}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    ),
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", ["speech.wav", "speech.m3u8", "speech.ffconcat", "speech.mpd", "speech.sdp"])
@pytest.mark.parametrize("playlist", PLAYLISTS.values(), ids=[f"M02-{kind}" for kind in PLAYLISTS])
def test_a_playlist_is_refused_and_opens_nothing(
    tmp_path: Path, trap: Trap, playlist: str, name: str
) -> None:
    for target in ("neighbour.wav", str(trap.path), f"file:{trap.path}", trap.url):
        (tmp_path / name).write_text(playlist.format(target))
        with pytest.raises(AudioError, match="cannot be read"):
            read_recording(tmp_path / name)
    assert trap.visits == []


def test_the_trap_notices_ffmpeg_without_our_options(tmp_path: Path, trap: Trap) -> None:
    (tmp_path / "list.m3u8").write_text(HLS.format("neighbour.wav"))
    with pytest.raises(av.error.FFmpegError):
        av.open(str(tmp_path / "list.m3u8")).close()
    assert trap.visits


@pytest.mark.parametrize("version", ["7.1", "n8.0-5-g1234567", "8.1.1"], ids="M08-{}".format)
def test_an_ffmpeg_with_known_faults_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(bytes(3200)))
    monkeypatch.setattr(av, "ffmpeg_version_info", version)
    with expect_message("before 8.1.2") as messages:
        read_recording(tmp_path / "a.wav")
    assert len(messages) == 1
    for other in ("8.1.2", "8.2", "n9.0", "N-118193-g5f38c82536", ""):
        monkeypatch.setattr(av, "ffmpeg_version_info", other)
        with expect_no_message():
            read_recording(tmp_path / "a.wav")


def test_m08_only_audio_decoders_are_opened(tmp_path: Path) -> None:
    """The published faults are a video decoder's, which FFmpeg opens to look at a file."""
    path = video(tmp_path / "v.avi", "magicyuv", "pcm_s16le")
    av.logging.set_level(av.logging.DEBUG)
    try:
        with av.logging.Capture() as plain:
            av.open(str(path)).close()
        with av.logging.Capture() as ours:
            assert read_recording(path).seconds == pytest.approx(1, abs=0.04)
    finally:
        av.logging.set_level(None)
    by_decoder = [[text for _, name, text in each if name == "magicyuv"] for each in (plain, ours)]
    assert by_decoder[0]
    assert all("not on whitelist" in text for text in by_decoder[1])


def test_m08_other_audio_decoders_are_refused(tmp_path: Path) -> None:
    path = encode_audio(tmp_path / "a.wav", tone(RATE), RATE, "adpcm_yamaha")
    with pytest.raises(AudioError, match=r"no audio that can be read(.|\n)*a\.wav: audio in adpcm_yamaha"):
        read_recording(path)


FRAME = 0.04
PCM = (tone(RATE, 1.0)[0] * 32767).astype("<i2")
FLOATS = np.arange(-8000, 8000, dtype="<f4") / 8000
DEEP = b"".join(int(value).to_bytes(3, "little", signed=True) for value in FLOATS * 2**23 * 0.5)
VALID_WAVS: dict[str, tuple[bytes, tuple[int, int], float | None]] = {
    "plain": (wav(PCM.tobytes()), (1, 16000), PCM[4] / 2**15),
    "claims more": (wav(PCM.tobytes(), size=10**9), (1, 16000), PCM[4] / 2**15),
    "claims less": (wav(PCM.tobytes(), size=2000), (1, 1000), PCM[4] / 2**15),
    "claims nothing": (wav(PCM.tobytes(), size=0), (1, 16000), None),
    "unknown length": (wav(PCM.tobytes(), size=0xFFFFFFFF), (1, 16000), None),
    "half a sample at the end": (wav(PCM.tobytes()[:-1]), (1, 15999), None),
    "an extra byte": (wav(PCM.tobytes() + b"x"), (1, 16000), None),
    "24 bits": (wav(DEEP, bits=24), (1, 16000), FLOATS[4] / 2),
    "32-bit float": (wav(FLOATS.tobytes(), bits=32, kind=3), (1, 16000), FLOATS[4]),
    "8 bits": (wav(((PCM >> 8) + 128).astype("u1").tobytes(), bits=8), (1, 16000), (PCM[4] >> 8) / 2**7),
    "64-bit float": (wav(FLOATS.astype("<f8").tobytes(), bits=64, kind=3), (1, 16000), FLOATS[4]),
    "8 channels": (wav(np.repeat(PCM, 8).tobytes(), channels=8), (8, 16000), PCM[4] / 2**15),
    "64 channels": (wav(np.repeat(PCM, 64).tobytes(), channels=64), (64, 16000), PCM[4] / 2**15),
    "1 kHz": (wav(PCM.tobytes(), rate=1000), (1, 16000), None),
    "768 kHz": (wav(PCM.tobytes(), rate=768_000), (1, 16000), None),
}


@pytest.mark.parametrize("case", VALID_WAVS, ids="M03-{}".format)
def test_a_wav_has_the_samples_that_are_there(tmp_path: Path, case: str) -> None:
    (content, shape, fifth), path = VALID_WAVS[case], tmp_path / "a.wav"
    path.write_bytes(content)
    with collect_messages() as messages:
        recording = read_recording(path)
    assert tuple(recording.waveform.shape) == shape
    assert ["shorter than its header" in each for each in messages] == [True] * (case == "claims more")
    if fifth is not None:
        assert recording.waveform[:, 4].tolist() == pytest.approx([fifth] * shape[0], abs=1e-6)


@pytest.mark.parametrize("channels", [3, 8, 9, 64], ids="M03-{}".format)
def test_any_number_of_channels_becomes_a_soundtrack(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(np.repeat(PCM, channels).tobytes(), channels=channels))
    encode_soundtrack([(path, Fraction(1))], tmp_path / "sound.mp4")
    assert abs(read_recording(tmp_path / "sound.mp4").seconds - 1) <= 2 * FRAME


INVALID_WAVS: dict[str, tuple[bytes, str]] = {
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


@pytest.mark.parametrize("case", INVALID_WAVS, ids="M03-{}".format)
def test_an_invalid_wav_is_refused(tmp_path: Path, case: str) -> None:
    content, expected = INVALID_WAVS[case]
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=expected):
        read_recording(tmp_path / "a.wav")


def test_m03_the_first_nan_is_located(tmp_path: Path) -> None:
    values = FLOATS.copy()
    values[8000:] = np.nan
    (tmp_path / "a.wav").write_bytes(wav(values.tobytes(), bits=32, kind=3))
    with pytest.raises(AudioError, match=r"0\.500 s"):
        to_mono(read_recording(tmp_path / "a.wav"), RATE)


FORMATS = [
    *(("a.mp3", "libmp3lame"), ("a.aac", "aac"), ("a.m4a", "aac"), ("a.ogg", "libopus"), ("a.oga", "flac")),
    *(("a.webm", "libopus"), ("a.flac", "flac"), ("a.aiff", "pcm_s16be"), ("a.caf", "alac")),
    *(("a.mkv", "pcm_s24le"), ("a.mov", "pcm_s16le")),
]


@pytest.mark.parametrize(("name", "codec"), FORMATS, ids=[f"M04-{name}-{codec}" for name, codec in FORMATS])
def test_every_audio_format_has_its_length(tmp_path: Path, name: str, codec: str) -> None:
    """To a frame, and without a message about an early end."""
    for seconds in (1.0, 2.3):
        recording = read_recording(encode_audio(tmp_path / name, tone(48000, seconds, 2), 48000, codec))
        assert abs(recording.seconds - seconds) <= FRAME
        assert recording.waveform.shape[0] == 2
        assert 0.4 < float(recording.waveform[:, 4800:-4800].abs().max()) < 0.6


VIDEOS = [("v.mp4", "mpeg4", "aac"), ("v.mkv", "libx264", "libopus"), ("v.avi", "mpeg4", "pcm_s16le")]


def test_m04_the_sound_of_a_video_is_read_and_one_without_is_refused(tmp_path: Path) -> None:
    for name, codec, sound in VIDEOS:
        assert abs(read_recording(video(tmp_path / name, codec, sound, 2)).seconds - 2) <= FRAME
        with pytest.raises(AudioError, match=rf"no audio that can be read(.|\n)*{name}: 1 tracks"):
            read_recording(video(tmp_path / name, codec, None))


STREAMED = {"a.ogg", "a.aac"}
"""Formats without a length."""
CUTS = [each for each in FORMATS if each[0] not in ("a.oga", "a.caf", "a.mov")]
CUTS += [("a.wav", "pcm_s16le")]


@pytest.mark.parametrize(("name", "codec"), CUTS, ids=[f"M05-{name}" for name, _ in CUTS])
def test_a_truncated_file_is_used_with_a_message_or_refused(tmp_path: Path, name: str, codec: str) -> None:
    options = {"movflags": "faststart"} if name == "a.m4a" else {}
    whole = encode_audio(tmp_path / name, tone(48000, 2.0), 48000, codec, options=options)
    content, piece = whole.read_bytes(), tmp_path / f"cut{whole.suffix}"
    for size in random.Random(5).sample(range(len(content)), 20):
        piece.write_bytes(content[:size])
        with collect_messages() as messages:
            try:
                seconds = read_recording(piece).seconds
            except AudioError:
                continue
        assert 0 < seconds <= 2 + FRAME, size
        if 2 - seconds > MISSING_SECONDS + FRAME and name not in STREAMED:
            length = " ".join(messages).split(" are stated and ")[1].split()[0]
            assert float(length) == pytest.approx(seconds, abs=0.02), size


TIMESTAMPS = [(0, 0), (1.5, 0), (0, 0.7), (1.5, 0.7)]
TIMESTAMPED = [("a.mkv", "pcm_s16le"), ("a.m4a", "aac"), ("a.ogg", "libopus"), ("a.ts", "aac")]


def make_clicks(rate: int, seconds: int) -> np.ndarray:
    """A click every quarter second."""
    samples = np.zeros((1, rate * seconds), np.float32)
    for start in range(rate // 4, rate * seconds, rate // 4):
        samples[:, start : start + 200] = 0.8 * np.sign(np.sin(np.arange(200) * 0.3))
    return samples


def find_clicks(path: Path) -> np.ndarray:
    loud = np.flatnonzero(np.abs(to_mono(read_recording(path), RATE).numpy()) > 0.3)
    return loud[np.diff(loud, prepend=-RATE) > 1000] / RATE


@pytest.mark.parametrize(
    ("start", "gap"), TIMESTAMPS, ids=[f"M06-from {start} gap {gap}" for start, gap in TIMESTAMPS]
)
@pytest.mark.parametrize(("name", "codec"), TIMESTAMPED)
def test_features_and_soundtrack_are_in_sync(
    tmp_path: Path, name: str, codec: str, start: float, gap: float
) -> None:
    """With timestamps that start late or jump, both follow the samples."""
    path = encode_audio(tmp_path / name, make_clicks(48000, 3), 48000, codec, start=start, gap=gap)
    encode_soundtrack([(path, Fraction(3))], tmp_path / "sound.mp4")
    mono, played = find_clicks(path), find_clicks(tmp_path / "sound.mp4")
    assert len(mono) == len(played) == 11
    assert np.abs(mono - played).max() <= FRAME
    assert np.abs(mono - np.arange(1, 12) / 4).max() <= FRAME


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [("a.mp3", "libmp3lame", 44100, 1), ("a.aac", "aac", 44100, 1), ("a.aac", "aac", 48000, 2)],
    ids="M06-{}".format,
)
def test_a_track_that_changes_its_format_is_refused(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    options = {"write_xing": "0"} if codec == "libmp3lame" else {}
    first = encode_audio(tmp_path / f"1{name}", tone(48000), 48000, codec, options=options)
    second = encode_audio(tmp_path / f"2{name}", tone(rate, channels=channels), rate, codec)
    (tmp_path / name).write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match="changes its format midway"):
        read_recording(tmp_path / name)
