"""What is written can be played: size, length, colours, sound in step."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hallo3.errors import OutputError
from hallo3.media.canvas import enlarged
from hallo3.media.video import VideoWriter, to_uint8
from sounds import tone, write_wav

COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])


def frames(count: int) -> torch.Tensor:
    """Frames of one colour each, taking turns."""
    picked = COLOURS[torch.arange(count) % 3]
    return picked[:, :, None, None].expand(-1, -1, 48, 64).contiguous()


def written(path: Path, sound: Path, count: int = 30) -> Path:
    with VideoWriter(path, width=64, height=48, fps=25, sound=sound) as video:
        for piece in frames(count).split(7):
            video.write(piece)
    return path


@pytest.mark.parametrize("rate", [7350, 16000, 44100, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_video_is_as_long_as_its_frames(tmp_path: Path, rate: int, channels: int) -> None:
    sound = write_wav(tmp_path / "s.wav", tone(rate, 2.0, channels), rate)
    path = written(tmp_path / "v.mp4", sound)
    with av.open(str(path)) as container:
        picture, track = container.streams.video[0], container.streams.audio[0]
        decoded = list(container.decode(picture))
        assert len(decoded) == 30
        assert (picture.width, picture.height, picture.average_rate) == (64, 48, 25)
        assert float(decoded[-1].time) == pytest.approx(29 / 25)
        assert abs(float(track.duration * track.time_base) - 1.2) < 0.04
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".mp4"] == ["v.mp4"]


def test_colours_and_sound_come_back(tmp_path: Path) -> None:
    path = written(tmp_path / "v.mp4", write_wav(tmp_path / "s.wav", tone(48000, 2.0), 48000))
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24", src_colorspace=1) for f in container.decode(video=0)]
    middle = np.array([picture[24, 32] for picture in pictures]) / 255
    assert np.abs(middle - frames(30)[:, :, 0, 0].numpy()).max() < 0.06
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_range) == (1, 1, 1)
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    wanted = tone(48000, 2.0)[0]
    lag = int(np.correlate(heard[9600:14400], wanted[9600:14400], "full").argmax()) - 4799
    assert abs(lag) < 0.04 * 48000
    assert np.corrcoef(heard[9600:19200], wanted[9600:19200])[0, 1] > 0.95


def test_sound_shorter_than_the_video_ends_first(tmp_path: Path) -> None:
    path = written(tmp_path / "v.mp4", write_wav(tmp_path / "s.wav", tone(16000, 0.3), 16000))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 30


@pytest.mark.parametrize("loudness", [10.0, 1e6, 1e9])
def test_sound_beyond_full_scale_is_cut(tmp_path: Path, loudness: float) -> None:
    with av.open(str(tmp_path / "loud.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            tone(16000, 2.0) * np.float32(loudness), format="flt", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path = written(tmp_path / "v.mp4", tmp_path / "loud.wav")
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 30


def test_what_was_rendered_survives_an_error(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s.wav", tone(16000, 2.0), 16000)
    path = tmp_path / "v.mp4"
    path.write_bytes(b"an older video")

    def broken() -> None:
        with VideoWriter(path, width=64, height=48, fps=25, sound=sound) as video:
            video.write(frames(10))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        broken()
    assert path.read_bytes() == b"an older video"
    with av.open(str(tmp_path / "v.partial.mp4")) as container:
        assert len(list(container.decode(video=0))) == 10


def test_nothing_is_left_when_nothing_was_rendered(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s.wav", tone(16000, 1.0), 16000)

    def broken() -> None:
        with VideoWriter(tmp_path / "v.mp4", width=64, height=48, fps=25, sound=sound):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert [path.name for path in tmp_path.iterdir()] == ["s.wav"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s.wav", tone(16000, 1.0), 16000)
    writer = VideoWriter(tmp_path / "absent" / "v.mp4", width=64, height=48, fps=25, sound=sound)
    with pytest.raises(OutputError, match="absent"):
        writer.__enter__()


def test_values_are_cut_not_rounded() -> None:
    assert to_uint8(torch.tensor([0.0, 0.999, 1.0, 1.9 / 255])).tolist() == [0, 254, 255, 1]


@pytest.mark.parametrize("times", [1, 2, 16])
def test_enlarged_frames_are_the_same_picture(times: int) -> None:
    picture = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).round()
    picture[0] = picture[0] * 0.5 + 0.2
    large = enlarged(picture, times)
    assert large.shape == (2, 3, 6 * times, 8 * times)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1
    assert float((torch.nn.functional.avg_pool2d(large, times) - picture).abs().max()) < 0.35
    assert torch.allclose(enlarged(torch.full((1, 3, 4, 4), 0.3), times), torch.tensor(0.3))
