import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from comfyui.browser import find_chromium
from hallo3.errors import OutputError
from hallo3.media import mux
from hallo3.media.audio import Recording
from hallo3.media.mux import FORMATS, GrowingVideo, decode_frames, encode_soundtrack, join_segments
from hallo3.media.video import CODECS, VideoEncoding, encode_segment
from support.audio_files import wav
from support.audio_samples import tone, write_wav

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])
H264 = VideoEncoding()
TAGS = {"h264": "avc1", "h265": "hvc1", "prores": "apch"}
"""By which players, Apple's above all, choose a decoder."""


def frames(count: int, side: int = 48) -> torch.Tensor:
    """Frames of one colour each, taking turns."""
    colours = COLOURS[torch.arange(count) % 3]
    return colours[:, :, None, None].expand(-1, -1, side, side + 16).contiguous()


def segments(count: int = 30, encoding: VideoEncoding = H264, side: int = 48) -> list[bytes]:
    return [encode_segment(part, encoding, 25) for part in frames(count, side).split(7)]


def write_video(path: Path, sound: Path | Recording) -> Path:
    encode_soundtrack([(sound, Fraction(30, 25))], path.with_name("sound.mp4"))
    join_segments(segments(), path.with_name("sound.mp4"), path)
    return path


def decode(path: Path) -> torch.Tensor:
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def decode_sound(path: Path, rate: int = 48000) -> np.ndarray:
    with av.open(str(path)) as container:
        assert container.streams.audio[0].rate == rate
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


@pytest.mark.parametrize("rate", [7350, 16000, 44100, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_video_is_as_long_as_its_frames(tmp_path: Path, rate: int, channels: int) -> None:
    path = write_video(tmp_path / "v.mp4", write_wav(tmp_path / "s.wav", tone(rate, 2.0, channels), rate))
    with av.open(str(path)) as container:
        picture, track = container.streams.video[0], container.streams.audio[0]
        places = [round(float(frame.time) * 25) for frame in container.decode(picture)]
        assert places == list(range(30))
        assert (picture.width, picture.height, picture.average_rate) == (64, 48, 25)
        assert abs(float(track.duration * track.time_base) - 1.2) < 0.04


def test_colours_and_sound_come_back(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", write_wav(tmp_path / "s.wav", tone(48000, 2.0), 48000))
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24", src_colorspace=1) for f in container.decode(video=0)]
        assert container.metadata["comment"] == mux.AI_COMMENT
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_range) == (1, 1, 1)
    middle = np.array([picture[24, 32] for picture in pictures]) / 255
    assert np.abs(middle - frames(30)[:, :, 0, 0].numpy()).max() < 0.06
    sound, expected = decode_sound(path), tone(48000, 2.0)[0]
    lag = int(np.correlate(sound[9600:14400], expected[9600:14400], "full").argmax()) - 4799
    assert abs(lag) < 0.04 * 48000
    assert np.corrcoef(sound[9600:19200], expected[9600:19200])[0, 1] > 0.95


def find_flashes_and_clicks(path: Path) -> tuple[list[float], list[float]]:
    """When a video is bright, and when it is loud, in seconds."""
    flashes, clicks = list[float](), list[float]()
    with av.open(str(path)) as container:
        for frame in container.decode([*container.streams]):
            if isinstance(frame, av.VideoFrame):
                flashes += [float(frame.time)] if frame.to_ndarray(format="gray").mean() > 128 else []
                continue
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.5)
            if len(loud) and (at := float(frame.time) + loud[0] / frame.sample_rate) - sum(clicks[-1:]) > 0.5:
                clicks.append(at)
    return flashes, clicks


FLASHES = [0.6, 1.4]
KINDS = [(codec, suffix) for codec in CODECS for suffix in CODECS[codec].files]


@cache
def flashing(codec: str) -> list[bytes]:
    """60 frames in segments of several lengths, bright at :data:`FLASHES`."""
    pictures = torch.zeros(60, 3, 32, 32)
    pictures[[15, 35]] = 1.0
    return [
        encode_segment(part, VideoEncoding(codec=codec), 25) for part in pictures.split([2, 20, 1, 30, 7])
    ]


@pytest.fixture(scope="module", params=[8000, 16000, 44100, 48000])
def clicking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound that clicks at :data:`FLASHES`, the second in a video that continues the first."""
    rate, folder = request.param, tmp_path_factory.mktemp("clicks")
    samples = torch.zeros(2, 12 * rate // 10)
    samples[:, 6 * rate // 10 :][:, : rate // 50] = 0.9
    encode_soundtrack([(Recording(samples, rate), Fraction(30, 25))], folder / "first.mp4")
    later = Recording(samples.roll(-4 * rate // 10, 1), rate)
    encode_soundtrack([(folder / "first.mp4", Fraction(30, 25)), (later, Fraction(30, 25))], folder / "s.mp4")
    return folder / "s.mp4"


@pytest.mark.parametrize(("codec", "suffix"), KINDS)
def test_the_finished_file(tmp_path: Path, clicking: Path, codec: str, suffix: str) -> None:
    """And the one that grows, also as a crash leaves it: tags, times and length."""
    names = [f"{name}{suffix}" for name in ("joined", "silent", "growing", "crashed")]
    joined, silent, growing, crashed = (tmp_path / name for name in names)
    join_segments(flashing(codec), clicking, joined)
    join_segments(flashing(codec), None, silent)
    with GrowingVideo(growing, clicking) as live:
        for segment in flashing(codec):
            live.append(segment)
        crashed.write_bytes(growing.read_bytes())
    for path in (joined, silent, growing, crashed):
        flashes, clicks = find_flashes_and_clicks(path)
        assert flashes == FLASHES
        assert path == silent or np.abs(np.subtract(clicks, FLASHES)).max() < 0.002
        with av.open(str(path)) as container:
            track, found = container.streams.video[0], [*container.streams, container]
            assert [each.start_time for each in found] == [0] * len(found)
            assert suffix == ".mkv" or track.codec_context.codec_tag == TAGS[codec]
            times = [float(frame.time) for frame in container.decode(track)]
            assert times == [n / 25 for n in range(len(times))]
            if path != crashed:
                assert (len(times), track.average_rate, container.duration) == (60, 25, 2_400_000)
                lengths = [s.duration * s.time_base for s in container.streams if s.duration]
                assert all(abs(length - 2.4) < 0.001 for length in lengths)  # Matroska has none of a track
    if suffix != ".mkv":
        content = joined.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")


PAGE = """<script>(async () => {
  const seen = [], video = document.createElement('video');
  video.muted = true;
  for (const name of %s) {
    video.src = name;
    await new Promise(done => { video.onloadeddata = video.onerror = done; });
    const view = new OffscreenCanvas(8, 8).getContext('2d'), light = [];
    for (const time of [0.58, 0.62, 0.66]) {
      await new Promise(done => {
        const shown = (_, frame) => Math.abs(frame.mediaTime + 0.02 - time) < 0.02 ? done() : wait();
        const wait = () => video.requestVideoFrameCallback(shown);
        video.onerror = done;
        wait();
        video.currentTime = time;
      });
      view.drawImage(video, 0, 0, 8, 8);
      light.push(view.getImageData(4, 4, 1, 1).data[0] > 128);
    }
    seen.push([video.duration, video.videoWidth, light]);
  }
  fetch('http://127.0.0.1:%d/', { method: 'POST', mode: 'no-cors', body: JSON.stringify(seen) });
})()</script>"""


@pytest.mark.skipif(find_chromium() is None, reason="NO CHROMIUM: that it plays the videos is not tested")
@pytest.mark.parametrize("clicking", [16000], indirect=True)
def test_a_browser_plays_the_file(tmp_path: Path, clicking: Path) -> None:
    names, heard = [*(f"{kind}{end}" for kind in "jg" for end in FORMATS)], list[bytes]()
    for name in names:
        path, suffix = tmp_path / name, Path(name).suffix if name[0] == "j" else ""
        with GrowingVideo(path, clicking, final_suffix=suffix) as video:
            for segment in flashing("h264"):
                video.append(segment)

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        server.timeout = 60
        (tmp_path / "page.html").write_text(PAGE % (json.dumps(names), server.server_port))
        flags = "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"
        words = [
            find_chromium(),
            *flags,
            f"--user-data-dir={tmp_path}/profile",
            f"file://{tmp_path}/page.html",
        ]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        try:
            server.handle_request()
        finally:
            process.terminate()
            process.wait()
    assert [seen[1:] for seen in json.loads(heard[0])] == [[32, [False, True, False]]] * len(names)
    packet = 1024 / 16000  # browsers may count all of the last one
    assert all(0 <= seen[0] - 2.4 < packet for seen in json.loads(heard[0])), heard


def test_joining_changes_no_frame(tmp_path: Path) -> None:
    parts = segments(40)
    join_segments(parts, None, tmp_path / "v.mp4")
    apart = torch.cat([decode_frames(part) for part in parts])
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert len([packet for packet in container.demux(video=0) if packet.size]) == 40
    assert torch.equal(decode(tmp_path / "v.mp4"), apart)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_plays_in_every_file_type(tmp_path: Path, codec: str) -> None:
    sound = write_wav(tmp_path / "s.wav", tone(16000, 1.0), 16000)
    encode_soundtrack([(sound, Fraction(20, 25))], tmp_path / "s.mp4")
    encoded = segments(20, VideoEncoding(codec=codec), side=64)
    for suffix in CODECS[codec].files:
        join_segments(encoded, tmp_path / "s.mp4", tmp_path / f"v{suffix}")
        error = (decode(tmp_path / f"v{suffix}")[:, :, 24, 32] - frames(20)[:, :, 0, 0]).abs()
        assert error.shape == (20, 3)
        assert float(error.max()) < (0.005 if codec == "ffv1" else 0.12)


def test_a_changed_sound_is_damaged_or_joined(tmp_path: Path) -> None:
    sound, draw = tmp_path / "s.mp4", np.random.default_rng(0)
    encode_soundtrack([(Recording(torch.from_numpy(tone(16000, 1.0)), 16000), Fraction(30, 25))], sound)
    whole, encoded, damaged = sound.read_bytes(), segments(14), 0
    for _ in range(100):
        data = bytearray(whole)
        data[draw.integers(whole.index(b"moov"), len(data))] ^= 1 << draw.integers(8)
        sound.write_bytes(data)
        try:
            join_segments(encoded, sound, tmp_path / "v.mp4")
        except OutputError:
            damaged += 1
    assert 20 < damaged < 100


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_the_video_plays_while_it_grows(tmp_path: Path, name: str) -> None:
    """A copy at any moment is what a crash would leave: all but the last half second plays."""
    encode_soundtrack([(Recording(torch.zeros(1, 64000), 16000), Fraction(4))], tmp_path / "s.mp4")
    with GrowingVideo(tmp_path / name, tmp_path / "s.mp4") as live:
        for index, segment in enumerate(segments(98)):
            live.append(segment)
            if index > 1:
                assert len(decode(tmp_path / name)) >= 7 * (index + 1) - 13
    assert len(decode(tmp_path / name)) == 98


def test_each_recording_is_padded_to_its_frames(tmp_path: Path) -> None:
    short, first = (Recording(torch.from_numpy(tone(16000, seconds)), 16000) for seconds in (0.3, 0.97))
    assert len(decode(write_video(tmp_path / "v.mp4", short))) == 30
    second = Recording(torch.from_numpy(tone(44100, 1.0, 2)), 44100)
    encode_soundtrack([(first, Fraction(25, 25)), (second, Fraction(20, 25))], tmp_path / "s.mp4")
    sound = decode_sound(tmp_path / "s.mp4", 44100)
    assert abs(len(sound) / 44100 - 1.8) < 0.05
    gap = np.abs(sound[int(0.975 * 44100) : int(0.995 * 44100)]).max()
    assert gap < 0.2 < np.abs(sound[int(1.01 * 44100) : int(1.2 * 44100)]).max()


def test_sound_beyond_full_scale_is_clipped(tmp_path: Path) -> None:
    for loudness in (10.0, 1e6, 1e9):
        samples = tone(16000, 2.0) * np.float32(loudness)
        (tmp_path / "loud.wav").write_bytes(wav(samples.tobytes(), bits=32, kind=3))
        assert len(decode(write_video(tmp_path / "v.mp4", tmp_path / "loud.wav"))) == 30


def test_a_failure_leaves_an_older_video_and_no_empty_one(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), GrowingVideo(tmp_path / "v.mp4", None):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "v.mp4").write_bytes(b"an older video")

    def fail() -> Iterator[bytes]:
        yield from segments(14)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        join_segments(fail(), None, tmp_path / "v.mp4")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older video"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "v.mp4"
    for write in (GrowingVideo(path, None).__enter__, lambda: join_segments(segments(7), None, path)):
        with pytest.raises(OutputError, match="absent"):
            write()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_ffmpeg_is_not_interrupted_by_a_full_disk_and_the_first_error_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mux, "create_file", lambda path: os.open(path, os.O_WRONLY))
    file = mux.OutputFile(Path("/dev/full"))
    for _ in range(3):
        assert file.write(bytes(100_000)) == 100_000
        assert file.seek(7) == 7
        with pytest.raises(OSError, match=r".") as failure:
            file.check()
        assert failure.value.errno == errno.ENOSPC
    with suppress(OSError):
        file.close()
    assert file.closed


def test_check_writes_what_is_buffered(tmp_path: Path) -> None:
    with mux.OutputFile(tmp_path / "f") as file:
        assert (file.write(b"abc"), file.seek(1), file.write(b"x")) == (3, 1, 1)
        file.check()
        assert (tmp_path / "f").read_bytes() == b"axc"
