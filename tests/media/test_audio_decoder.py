"""Hostile audio files (catalogue): M02 and M08 reach beyond their sound, M03 to M06 are damaged or odd."""

import os
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hallo3.errors import AudioError
from hallo3.media.audio import read_recording, to_mono
from hallo3.media.audio_decoder import MISSING_SECONDS
from hallo3.media.mux import encode_soundtrack
from support.audio_files import encode_audio, video, wav
from support.audio_samples import RATE, tone
from support.messages import collect_messages, expect_message


class Trap:
    """A named pipe and a server that note who opens them."""

    def __init__(self, path: Path, server: socket.socket) -> None:
        self.path, self._server, self.visits = path, server, list[str]()
        self.url = f"http://127.0.0.1:{server.getsockname()[1]}/x.wav"

    def watch(self, stop: threading.Event) -> None:
        """A reader of the pipe waits until it is opened for writing, so none is missed."""
        while not stop.is_set():
            with suppress(OSError):
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
                self.visits.append("file")
            with suppress(TimeoutError):
                self._server.accept()[0].close()
                self.visits.append("server")


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "neighbour.wav")
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(0.02)
        trap, stop = Trap(tmp_path / "neighbour.wav", server), threading.Event()
        watching = pool.submit(trap.watch, stop)
        yield trap
        stop.set()
        watching.result()


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
@pytest.mark.parametrize("playlist", PLAYLISTS, ids="M02-{}".format)
def test_a_playlist_is_refused_and_opens_nothing(trap: Trap, playlist: str, name: str) -> None:
    path = trap.path.with_name(name)
    for target in ("neighbour.wav", str(trap.path), f"file:{trap.path}", trap.url):
        path.write_text(PLAYLISTS[playlist].format(target))
        with pytest.raises(AudioError, match="cannot be read"):
            read_recording(path)
    assert trap.visits == []


def test_the_trap_notices_ffmpeg_without_our_options(tmp_path: Path, trap: Trap) -> None:
    (tmp_path / "list.m3u8").write_text(HLS.format("neighbour.wav"))
    with pytest.raises(av.error.FFmpegError):
        av.open(str(tmp_path / "list.m3u8")).close()
    assert trap.visits


def test_m08_an_ffmpeg_with_faults_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty, sound = ["7.1", "n8.0-5-g1234567", "8.1.1"], ["8.1.2", "8.2", "n9.0", "N-118193-g5f38c82536", ""]
    (tmp_path / "a.wav").write_bytes(wav(bytes(3200)))
    for version in (*faulty, *sound):
        monkeypatch.setattr(av, "ffmpeg_version_info", version)
        with collect_messages() as messages:
            read_recording(tmp_path / "a.wav")
        assert ["before 8.1.2" in each for each in messages] == [True] * (version in faulty), version


def test_m08_only_known_audio_decoders_are_opened(tmp_path: Path) -> None:
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
    with pytest.raises(AudioError, match=r"no audio that can be read(.|\n)*a\.wav: audio in adpcm_yamaha"):
        read_recording(encode_audio(tmp_path / "a.wav", tone(RATE), RATE, "adpcm_yamaha"))


FRAME = 0.04
PCM = (tone(RATE, 1.0)[0] * 32767).astype("<i2")
SOUND = PCM.tobytes()
FLOATS = np.arange(-8000, 8000, dtype="<f4") / 8000
DEEP = b"".join(int(value).to_bytes(3, "little", signed=True) for value in FLOATS * 2**23 * 0.5)
VALID_WAVS: dict[str, tuple[bytes, tuple[int, int], float | None]] = {
    "plain": (wav(SOUND), (1, 16000), PCM[4] / 2**15),
    "claims more": (wav(SOUND, size=10**9), (1, 16000), PCM[4] / 2**15),
    "claims less": (wav(SOUND, size=2000), (1, 1000), PCM[4] / 2**15),
    "claims nothing": (wav(SOUND, size=0), (1, 16000), None),
    "unknown length": (wav(SOUND, size=0xFFFFFFFF), (1, 16000), None),
    "half a sample at the end": (wav(SOUND[:-1]), (1, 15999), None),
    "an extra byte": (wav(SOUND + b"x"), (1, 16000), None),
    "24 bits": (wav(DEEP, bits=24), (1, 16000), FLOATS[4] / 2),
    "32-bit float": (wav(FLOATS.tobytes(), bits=32, kind=3), (1, 16000), FLOATS[4]),
    "8 bits": (wav(((PCM >> 8) + 128).astype("u1").tobytes(), bits=8), (1, 16000), (PCM[4] >> 8) / 2**7),
    "64-bit float": (wav(FLOATS.astype("<f8").tobytes(), bits=64, kind=3), (1, 16000), FLOATS[4]),
    "8 channels": (wav(np.repeat(PCM, 8).tobytes(), channels=8), (8, 16000), PCM[4] / 2**15),
    "64 channels": (wav(np.repeat(PCM, 64).tobytes(), channels=64), (64, 16000), PCM[4] / 2**15),
    "1 kHz": (wav(SOUND, rate=1000), (1, 16000), None),
    "768 kHz": (wav(SOUND, rate=768_000), (1, 16000), None),
}


@pytest.mark.parametrize("case", VALID_WAVS, ids="M03-{}".format)
def test_a_wav_has_the_samples_that_are_there(tmp_path: Path, case: str) -> None:
    (content, shape, fifth), path = VALID_WAVS[case], tmp_path / "a.wav"
    path.write_bytes(content)
    with collect_messages() as messages:
        recording = read_recording(path)
    assert tuple(recording.waveform.shape) == shape
    claims = {"claims more": "shorter than its header", "claims less": "seems to be sound"}
    assert [claims[case] in each for each in messages] == [True] * (case in claims)
    if fifth is not None:
        assert recording.waveform[:, 4].tolist() == pytest.approx([fifth] * shape[0], abs=1e-6)


def test_m03_any_number_of_channels_becomes_a_soundtrack(tmp_path: Path) -> None:
    for channels in (3, 8, 9, 64):
        (tmp_path / "a.wav").write_bytes(wav(np.repeat(PCM, channels).tobytes(), channels=channels))
        encode_soundtrack([(tmp_path / "a.wav", Fraction(1))], tmp_path / "sound.mp4")
        assert abs(read_recording(tmp_path / "sound.mp4").seconds - 1) <= 2 * FRAME


INVALID_WAVS: dict[str, tuple[bytes, str]] = {
    "rate 0": (wav(SOUND, rate=0), "cannot be read"),
    "rate 1": (wav(SOUND, rate=1), r"sample rate cannot be used(.|\n)* 1 Hz(.|\n)*1000 to 768000"),
    "rate 999": (wav(SOUND, rate=999), "999 Hz"),
    "rate 2 G": (wav(SOUND, rate=2**31 - 1), "2147483647 Hz"),
    "rate 4 G": (wav(SOUND, rate=2**32 - 1), "cannot be read"),
    "channels 0": (wav(SOUND, channels=0), "cannot be read"),
    "channels 65": (wav(SOUND * 65, channels=65), "65 channels(.|\n)*at most 64"),
    "channels 255": (wav(SOUND * 20, channels=255), "255 channels"),
    "channels 65535": (wav(SOUND * 50, channels=65535), "cannot be read"),
    "0 bits": (wav(SOUND, bits=0), "no audio that can be read"),
    "unknown": (wav(SOUND, kind=9999), "no audio that can be read"),
    "no content": (wav(), "empty"),
}


@pytest.mark.parametrize("case", INVALID_WAVS, ids="M03-{}".format)
def test_an_invalid_wav_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "a.wav").write_bytes(INVALID_WAVS[case][0])
    with pytest.raises(AudioError, match=INVALID_WAVS[case][1]):
        read_recording(tmp_path / "a.wav")


def test_m03_the_first_nan_is_located(tmp_path: Path) -> None:
    values = np.where(np.arange(16000) < 8000, FLOATS, np.float32("nan"))
    (tmp_path / "a.wav").write_bytes(wav(values.tobytes(), bits=32, kind=3))
    with pytest.raises(AudioError, match=r"0\.500 s"):
        to_mono(read_recording(tmp_path / "a.wav"), RATE)


FORMATS = {"mp3": "libmp3lame", "aac": "aac", "m4a": "aac", "ogg": "libopus", "oga": "flac", "flac": "flac"}
FORMATS |= {"webm": "libopus", "mov": "pcm_s16le", "aiff": "pcm_s16be", "caf": "alac", "mkv": "pcm_s24le"}


@pytest.mark.parametrize("name", FORMATS, ids="M04-{}".format)
def test_every_audio_format_has_its_length(tmp_path: Path, name: str) -> None:
    """To a frame, and without a message about an early end."""
    for seconds in (1.0, 2.3):
        sound, path = tone(48000, seconds, 2), tmp_path / f"a.{name}"
        recording = read_recording(encode_audio(path, sound, 48000, FORMATS[name]))
        assert abs(recording.seconds - seconds) <= FRAME
        assert recording.waveform.shape[0] == 2
        assert 0.4 < float(recording.waveform[:, 4800:-4800].abs().max()) < 0.6


def test_m04_the_sound_of_a_video_is_read_and_one_without_is_refused(tmp_path: Path) -> None:
    videos = ("v.mp4", "mpeg4", "aac"), ("v.mkv", "libx264", "libopus"), ("v.avi", "mpeg4", "pcm_s16le")
    for name, codec, sound in videos:
        assert abs(read_recording(video(tmp_path / name, codec, sound, 2)).seconds - 2) <= FRAME
        with pytest.raises(AudioError, match=rf"no audio that can be read(.|\n)*{name}: 1 tracks"):
            read_recording(video(tmp_path / name, codec, None))


CUTS = [*(name for name in FORMATS if name not in ("oga", "caf", "mov")), "wav"]


@pytest.mark.parametrize("name", CUTS, ids="M05-{}".format)
def test_a_truncated_file_is_used_with_a_message_or_refused(tmp_path: Path, name: str) -> None:
    options, codec = {"movflags": "faststart"} if name == "m4a" else {}, FORMATS.get(name, "pcm_s16le")
    whole = encode_audio(tmp_path / f"a.{name}", tone(48000, 2.0), 48000, codec, options=options)
    content, piece = whole.read_bytes(), tmp_path / f"cut.{name}"
    for size in random.Random(5).sample(range(len(content)), 20):
        piece.write_bytes(content[:size])
        with collect_messages() as messages:
            try:
                seconds = read_recording(piece).seconds
            except AudioError:
                continue
        assert 0 < seconds <= 2 + FRAME, size
        if 2 - seconds > MISSING_SECONDS + FRAME and name not in ("ogg", "aac"):  # these have no length
            length = " ".join(messages).split(" are stated and ")[1].split()[0]
            assert float(length) == pytest.approx(seconds, abs=0.02), size


TIMESTAMPED = {"mkv": "pcm_s16le", "m4a": "aac", "ogg": "libopus", "ts": "aac"}


def find_clicks(path: Path) -> np.ndarray:
    loud = np.flatnonzero(np.abs(to_mono(read_recording(path), RATE).numpy()) > 0.3)
    return loud[np.diff(loud, prepend=-RATE) > 1000] / RATE


@pytest.mark.parametrize("start", [0, 1.5], ids="M06-from {}".format)
@pytest.mark.parametrize("gap", [0, 0.7], ids="gap {}".format)
@pytest.mark.parametrize("name", TIMESTAMPED)
def test_features_and_soundtrack_are_in_sync(tmp_path: Path, name: str, start: float, gap: float) -> None:
    """A click every quarter second, with timestamps that start late or jump: both follow them."""
    sound = np.zeros((1, 48000 * 3), np.float32)
    for click in set(range(12000, 48000 * 3, 12000)) - {48000}:  # where they jump
        sound[:, click : click + 200] = 0.8 * np.sign(np.sin(np.arange(200) * 0.3))
    path = encode_audio(tmp_path / f"a.{name}", sound, 48000, TIMESTAMPED[name], start=start, gap=gap)
    with collect_messages() as messages:
        encode_soundtrack([(path, Fraction(4))], tmp_path / "sound.mp4")
        mono, played = find_clicks(path), find_clicks(tmp_path / "sound.mp4")
    assert ["0.70 s at 1.0" in each for each in messages] == [True] * bool(gap)
    assert len(mono) == len(played) == 10
    assert np.abs(mono - played).max() <= 0.001
    clicks = np.delete(np.arange(1, 12) / 4, 3)
    assert np.abs(mono - clicks - gap * (clicks > 1)).max() <= FRAME


def test_m06_a_track_that_changes_its_format_is_converted(tmp_path: Path) -> None:
    """To what FFmpeg finds first: for a short MP3 that is the end."""
    cases = ("a.mp3", 44100, 1, 44100), ("b.aac", 44100, 1, 48000), ("c.aac", 48000, 2, 48000)
    for name, rate, channels, expected in cases:
        path, codec = tmp_path / name, FORMATS[name[2:]]
        options = {"write_xing": "0"} if name == "a.mp3" else {}
        first = encode_audio(path, tone(48000), 48000, codec, options=options).read_bytes()
        second = encode_audio(path, tone(rate, channels=channels), rate, codec).read_bytes()
        path.write_bytes(first + second)
        with expect_message(rf"change at 0\.(.|\n)*converted to {expected} Hz, 1 channels"):
            recording = read_recording(path)
        assert (recording.sample_rate, len(recording.waveform)) == (expected, 1)
        assert abs(recording.seconds - 1) < 0.1
        assert float(recording.waveform[0, 27000:40000].abs().max()) > 0.4
