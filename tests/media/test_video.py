import os
import random
from collections.abc import Callable
from hashlib import sha256

import pytest
import torch

from hallo3.errors import InputError
from hallo3.media.video import VideoEncoding, encode_segment, stream_headers, to_uint8
from support.own_process import run_alone

H264 = VideoEncoding()


def test_headers_depend_on_the_encoding_and_the_size() -> None:
    assert stream_headers(H264, 64, 48, 25) == stream_headers(H264, 64, 48, 25)
    others = [stream_headers(VideoEncoding(pixels="yuv444p"), 64, 48, 25), stream_headers(H264, 48, 64, 25)]
    assert stream_headers(H264, 64, 48, 25) not in others


def test_impossible_encodings_are_refused() -> None:
    choices = ("mpeg2", None, ""), ("prores", None, "yuv420p"), ("h264", 52, ""), ("h264", -1, "")
    for codec, quality, pixels in (*choices, ("ffv1", 3, "")):
        with pytest.raises(InputError, match="Expected:"):
            VideoEncoding(codec=codec, quality=quality, pixels=pixels)
    ffv1 = VideoEncoding(codec="ffv1")
    for suffix, width, encoding in ((".mp4", 64, ffv1), (".avi", 64, H264), (".mp4", 63, H264)):
        with pytest.raises(InputError):
            encoding.check(suffix, width, 64)
    VideoEncoding(pixels="yuv444p").check(".mp4", 63, 65)


def test_values_are_truncated() -> None:
    assert to_uint8(torch.tensor([0.0, 0.999, 1.0, 1.9 / 255])).tolist() == [0, 254, 255, 1]


def run_in_child(work: Callable[[], bytes], seed: int) -> bytes:
    """The hash of what ``work`` returns in a child whose freed memory is full of random bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        draw = random.Random(seed)
        junk = [bytearray(draw.randbytes(1) * draw.randrange(1, 200_000)) for _ in range(draw.randrange(100))]
        del junk[::2]
        os.write(writing, sha256(work()).digest())
        os._exit(0)
    os.close(writing)
    digest = os.read(reading, 64)
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
    return digest


def count_segments(codec: str, side: int, times: int) -> int:
    """How many different segments equal frames become."""
    torch.set_num_threads(1)
    frames = torch.rand(13, 3, side, side, generator=torch.Generator().manual_seed(1)) * 0.2
    frames += 0.7 * torch.linspace(0, 1, side)
    encoding = VideoEncoding(codec=codec)
    return len({run_in_child(lambda: encode_segment(frames, encoding, 25), n) for n in range(times)})


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_equal_frames_are_equal_segments_whatever_is_in_memory() -> None:
    """An encoder that read uninitialised memory gave several segments in a hundred tries."""
    counts = "[count_segments(codec, side, 16) for codec in ('h264', 'h265') for side in (32, 64)]"
    assert run_alone("media.test_video", counts) == [1, 1, 1, 1]
