"""Encodings that exist, and what decides a piece."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256

import pytest
import torch

from hallo3.errors import InputError
from hallo3.media.canvas import enlarge
from hallo3.media.video import VideoEncoding, encode_segment, stream_headers, to_uint8

H264 = VideoEncoding()


def pieces(count: int) -> list[bytes]:
    frames = torch.rand(count, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    return [encode_segment(part, H264, 25) for part in frames.split(7)]


def test_equal_frames_are_equal_pieces_and_headers_are_the_encodings() -> None:
    assert pieces(9) == pieces(9)
    assert stream_headers(H264, 64, 48, 25) == stream_headers(H264, 64, 48, 25)
    others = [stream_headers(VideoEncoding(pixels="yuv444p"), 64, 48, 25), stream_headers(H264, 48, 64, 25)]
    assert stream_headers(H264, 64, 48, 25) not in others


@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": "mpeg2"},
        {"codec": "prores", "pixels": "yuv420p"},
        {"quality": 52},
        {"quality": -1},
        {"codec": "ffv1", "quality": 3},
    ],
)
def test_impossible_encodings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="Expected:"):
        VideoEncoding(**wrong)  # type: ignore[arg-type]


def test_files_and_sizes_that_do_not_fit_are_refused() -> None:
    for suffix, width, height, encoding in [
        (".mp4", 64, 64, VideoEncoding(codec="ffv1")),
        (".avi", 64, 64, H264),
        (".mp4", 63, 64, H264),
    ]:
        with pytest.raises(InputError):
            encoding.check(suffix, width, height)
    VideoEncoding(pixels="yuv444p").check(".mp4", 63, 65)


def test_values_are_cut_not_rounded() -> None:
    assert to_uint8(torch.tensor([0.0, 0.999, 1.0, 1.9 / 255])).tolist() == [0, 254, 255, 1]


@pytest.mark.parametrize("times", [1, 2, 16])
def test_enlarged_frames_are_the_same_picture(times: int) -> None:
    picture = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).round()
    picture[0] = picture[0] * 0.5 + 0.2
    large = enlarge(picture, times)
    assert large.shape == (2, 3, 6 * times, 8 * times)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1
    assert float((torch.nn.functional.avg_pool2d(large, times) - picture).abs().max()) < 0.35
    assert torch.allclose(enlarge(torch.full((1, 3, 4, 4), 0.3), times), torch.tensor(0.3))


def in_a_child(work: Callable[[], bytes], litter: int) -> bytes:
    """What work gives in a child whose freed memory is full of something else."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        draw = random.Random(litter)
        junk = [bytearray(draw.randbytes(1) * draw.randrange(1, 200_000)) for _ in range(draw.randrange(100))]
        del junk[::2]
        os.write(writing, sha256(work()).digest())
        os._exit(0)
    os.close(writing)
    found = os.read(reading, 64)
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
    return found


ALIKE = """
import sys
from media.test_video import alike
alike(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def alike(codec: str, side: int, times: int) -> None:
    """Encode the same frames in many children."""
    torch.set_num_threads(1)
    frames = torch.rand(13, 3, side, side, generator=torch.Generator().manual_seed(1)) * 0.2
    frames += 0.7 * torch.linspace(0, 1, side)
    encoding = VideoEncoding(codec=codec)
    found = {in_a_child(lambda: encode_segment(frames, encoding, 25), n) for n in range(times)}
    assert len(found) == 1, f"{len(found)} different pieces"


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
@pytest.mark.parametrize(("codec", "side"), [("h264", 32), ("h264", 64), ("h265", 32), ("h265", 64)])
def test_equal_frames_are_equal_pieces_whatever_lies_in_memory(codec: str, side: int) -> None:
    """An encoder that reads memory it never wrote gave several pieces in a hundred tries."""
    command = [sys.executable, "-c", ALIKE, codec, str(side), "16"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
