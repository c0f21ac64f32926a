import errno
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hallo3.errors import OutputError
from hallo3.media import mux
from hallo3.media.audio import Recording
from hallo3.media.mux import GrowingVideo, decode_frames, encode_soundtrack, join_segments
from hallo3.media.video import CODECS, VideoEncoding, encode_segment
from support.audio_files import wav
from support.audio_samples import tone, write_wav

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])
H264 = VideoEncoding()


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
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                flashes += [float(frame.time)] if frame.to_ndarray(format="gray").mean() > 128 else []
                continue
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.5)
            if len(loud) and (at := float(frame.time) + loud[0] / frame.sample_rate) - sum(clicks[-1:]) > 0.5:
                clicks.append(at)
    return flashes, clicks


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_picture_and_sound_are_in_sync_to_the_end(tmp_path: Path, name: str, rate: int) -> None:
    pictures, second = torch.zeros(25 * 8, 3, 32, 32), torch.arange(8 * rate) % rate
    pictures[25::25] = 1.0
    samples = 0.9 * (second < rate // 50).float().expand(2, -1)
    samples[:, :rate] = 0
    encode_soundtrack([(Recording(samples, rate), Fraction(8))], tmp_path / "s.mp4")
    encoded = [encode_segment(part, H264, 25) for part in pictures.split(15)]
    join_segments(encoded, tmp_path / "s.mp4", tmp_path / name)
    with GrowingVideo(tmp_path / f"live.{name}", tmp_path / "s.mp4") as live:
        for segment in encoded:
            live.append(segment)
    for path in (tmp_path / name, tmp_path / f"live.{name}"):
        flashes, clicks = find_flashes_and_clicks(path)
        assert len(flashes) == len(clicks) == 7
        assert max(abs(a - b) for a, b in zip(flashes, clicks, strict=True)) < 0.04


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
def test_ffmpeg_is_not_interrupted_by_a_full_disk_and_the_first_error_is_kept() -> None:
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
