"""Audio files that would reach further than their own sound; rows M02 and M08 of the catalogue of bad
inputs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from hallo3.errors import AudioError
from hallo3.media.audio import read_recording
from support.audio_files import encode_audio, video, wav
from support.audio_samples import RATE, tone
from support.messages import collect_messages


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


@pytest.mark.parametrize(
    ("version", "warns"),
    [("7.1", True), ("n8.0-5-g1234567", True), ("8.1.1", True), ("8.1.2", False), ("8.2", False),
     ("n9.0", False), ("N-118193-g5f38c82536", False), ("", False)],
    ids="M08-{}".format,
)  # fmt: skip
def test_an_ffmpeg_with_known_faults_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, warns: bool
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(bytes(3200)))
    monkeypatch.setattr(av, "ffmpeg_version_info", version)
    with collect_messages() as messages:
        read_recording(tmp_path / "a.wav")
    assert [("before 8.1.2" in each) for each in messages] == [True] * warns


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
