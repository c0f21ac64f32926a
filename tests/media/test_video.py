import os
import random
from collections.abc import Callable
from contextlib import ExitStack, suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3.errors import InputError, OutputError
from hallo3.media.mux import decode_frames
from hallo3.media.video import CODECS, VideoEncoding, encode_segment, is_segment, stream_headers, to_uint8
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


FRAMES = torch.rand(5, 3, 48, 64, generator=torch.Generator().manual_seed(0))
PIECE = encode_segment(FRAMES, H264, 25)


def put(box: bytes, place: int, value: int) -> bytes:
    """``PIECE`` with another number in a box."""
    start = PIECE.index(box) + 4 + place
    return PIECE[:start] + value.to_bytes(4) + PIECE[start + 4 :]


def insert(parents: list[bytes], name: bytes, content: bytes = bytes(64)) -> bytes:
    """``PIECE`` with one more box, at the end of the innermost of its ``parents``."""
    data, box, end = bytearray(PIECE), (len(content) + 8).to_bytes(4) + name + content, len(PIECE)
    for parent in parents:
        start = data.index(parent) - 4
        size = int.from_bytes(data[start : start + 4])
        data[start : start + 4], end = (size + len(box)).to_bytes(4), start + size
    return bytes(data[:end] + box + data[end:])


def hide(number: int) -> bytes:
    """``PIECE`` in which a packet brings headers of its own, and is of a larger picture."""
    large, result = encode_segment(torch.zeros(5, 3, 512, 512), H264, 25), BytesIO()
    with ExitStack() as stack:
        whole, other = (stack.enter_context(av.open(BytesIO(data))) for data in (PIECE, large))
        target: Any = stack.enter_context(av.open(result, "w", format="mp4"))
        track: Any = whole.streams.video[0]
        packets, foreign = (list(each.demux(video=0)) for each in (whole, other))
        headers = other.streams.video[0].codec_context.extradata or b""
        end = 8 + int.from_bytes(headers[6:8])
        made = av.Packet(
            bytes(2) + headers[6:end] + bytes(2) + headers[end + 1 : -4] + bytes(foreign[number])
        )
        for name in ("pts", "dts", "duration", "time_base", "is_keyframe"):
            setattr(made, name, getattr(packets[number], name))
        packets[number], stream = made, target.add_stream_from_template(track)
        for packet in packets[:-1]:
            packet.stream = stream
            target.mux(packet)
    return result.getvalue()


STBL = [b"moov", b"trak", b"mdia", b"minf", b"stbl"]
ENTRY = [*STBL, b"stsd", b"avc1"]
TRACK = PIECE[PIECE.index(b"trak") + 4 : PIECE.index(b"udta") - 4]
NO_SEGMENT = {
    "empty": b"",
    "ffconcat list": b"ffconcat version 1.0\nfile 'piece.mp4'\n",
    "SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "HLS playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npiece.mp4\n#EXT-X-ENDLIST\n",
    "MPEG-DASH": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
    "cut": PIECE[:-1],
    "cut in the middle": PIECE[: len(PIECE) // 2],
    "two": PIECE + PIECE,
    "a fragment": insert([], b"moof"),
    "a compressed header": insert([b"moov"], b"cmov"),
    "two tracks": insert([b"moov"], b"trak", TRACK),
    "a track in the tags": insert([b"moov", b"udta"], b"trak", TRACK),
    "a track in the codec": insert(ENTRY, b"trak", TRACK),
    "a box of size 0": put(b"ftyp", -8, 0),
    "4 GB of samples": put(b"stsz", 8, 1 << 31),
    "4 GB of equal samples": put(b"stsz", 4, 1 << 31),
    "4 GB of chunks": put(b"stco", 4, 1 << 31),
    "long frames": put(b"stts", 12, 1 << 20),
    "frames at one time": put(b"ctts", 12, 0),
    "another picture": encode_segment(FRAMES[..., :32], H264, 25),
    "another length": encode_segment(FRAMES[:4], H264, 25),
    "another speed": encode_segment(FRAMES, H264, 50),
    "a larger picture in a packet": hide(0),
    "other pixels": encode_segment(FRAMES, VideoEncoding(pixels="yuv444p"), 25),
    "another codec": encode_segment(FRAMES, VideoEncoding(codec="h265"), 25),
}


@pytest.mark.parametrize("name", NO_SEGMENT)
def test_what_is_no_segment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("piece.mp4").write_bytes(PIECE)
    assert not is_segment(NO_SEGMENT[name], 5, H264, 64, 48, 25)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_encoded_segment_is_one(codec: str, count: int) -> None:
    for pixels in CODECS[codec].pixels:
        encoding = VideoEncoding(codec=codec, pixels=pixels)
        assert is_segment(encode_segment(FRAMES[:count], encoding, 25), count, encoding, 64, 48, 25)


def test_a_packet_that_grows_is_not_decoded() -> None:
    for number in range(5):
        with pytest.raises(OutputError, match="damaged"):
            decode_frames(hide(number))


def test_any_changed_byte_is_told_in_one_way() -> None:
    """Headers with a byte flipped are a segment or not, and never another error."""
    draw = random.Random(0)
    for _ in range(200):
        data = bytearray(PIECE)
        data[draw.randrange(PIECE.index(b"moov"), len(PIECE))] ^= 1 << draw.randrange(8)
        is_segment(bytes(data), 5, H264, 64, 48, 25)
        with suppress(OutputError):
            decode_frames(bytes(data))


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


@settings(deadline=None)
@given(st.sampled_from((24, 25, 30, 50, 60)), st.lists(st.integers(2, 47), min_size=1, max_size=30))
def test_segments_at_another_rate_are_the_whole_video_at_that_rate(rate: int, counts: list[int]) -> None:
    encoding, shown, first = VideoEncoding(rate=rate), list[int](), 0
    for count in counts:
        numbers = encoding.shown(first, count, 25)
        assert all(0 <= number < count for number in numbers)
        assert len(numbers) in (count * rate // 25, -(-count * rate // 25))
        shown += [first + number for number in numbers]
        first += count
    assert shown == [number * 25 // rate for number in range(-(-first * rate // 25))]
