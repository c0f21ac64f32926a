"""Video encoding: codecs, and the frames of a segment as an encoded file.

Every segment has its own encoder: its file depends on its frames only, starts with a key frame, and has the
same headers as every other one, so that segments can be joined without re-encoding.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, OutputError, check_choice
from ..storage.hashing import hash_bytes

BT709, LIMITED_RANGE = 1, 1
MIN_REORDERED_FRAMES = 3
"""Encoders do not change the order of fewer."""
DETERMINISTIC = "b-adapt=0:scenecut=0:weightp=0"
"""Otherwise both encoders read uninitialised memory in their look-ahead, and equal frames below 256 px per
side sometimes gave different files (tests/media/test_video.py)."""
H265 = "pools=none:frame-threads=1:ctu=16"
MP4_SUFFIXES = (".mp4", ".mov", ".mkv")
OPEN_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": "mov"}
"""Of an MP4 or MOV that was kept: FFmpeg opens nothing else, whatever the bytes say."""
SAMPLE_ENTRY = "avcC hvcC glbl esds colr pasp fiel btrt"
BOXES = {
    "": "ftyp free wide mdat moov",
    "moov": "mvhd trak udta",
    "trak": "tkhd edts mdia",
    "edts": "elst",
    "mdia": "mdhd hdlr minf",
    "minf": "vmhd smhd hdlr dinf stbl",
    "dinf": "dref",
    "stbl": "stsd stts stss sdtp ctts stsc stsz stco sgpd sbgp",
    "stsd": "avc1 hvc1 apch ap4h FFV1 mp4a",
    **dict.fromkeys(("avc1", "hvc1", "apch", "ap4h", "FFV1", "mp4a"), SAMPLE_ENTRY),
    "udta": "meta \xa9too \xa9swr",
    "meta": "hdlr ilst",
    "ilst": "\xa9too",
}
"""Boxes of an MP4 or MOV with one track, as FFmpeg writes it here, by what they are in. FFmpeg reads many
more, anywhere: compressed ones, and tables that take gigabytes and no bytes of the file."""
BOX_STARTS = {"meta": 4, "stsd": 8, "mp4a": 28, **dict.fromkeys(("avc1", "hvc1", "apch", "ap4h", "FFV1"), 78)}
"""Bytes in a box before the boxes in it."""
EDIT_BYTES = 20
"""Of an edit list with one edit."""
TABLES = ("stts", "stss", "ctts", "stsc", "stco")


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """FFmpeg's ``encoder`` and ``decoder``; its default ``quality`` and the ``worst`` (0 is best; None: not
    adjustable); its pixel formats, the first is the default; file endings; and the format of a
    ``segment``."""

    encoder: str
    decoder: str
    quality: int | None
    worst: int
    pixels: tuple[str, ...]
    files: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    segment: str = "mp4"


CODECS = {
    "h264": Codec(
        encoder="libx264",
        decoder="h264",
        quality=17,
        worst=51,
        pixels=("yuv420p", "yuv444p", "yuv420p10le"),
        files=MP4_SUFFIXES,
        options=(("preset", "medium"), ("x264-params", f"mbtree=0:rc-lookahead=0:{DETERMINISTIC}")),
    ),
    "h265": Codec(
        encoder="libx265",
        decoder="hevc",
        quality=20,
        worst=51,
        pixels=("yuv420p", "yuv420p10le", "yuv444p"),
        files=MP4_SUFFIXES,
        options=(("preset", "medium"), ("x265-params", f"log-level=none:{H265}:cutree=0:{DETERMINISTIC}")),
    ),
    "prores": Codec(
        encoder="prores_ks",
        decoder="prores",
        quality=None,
        worst=0,
        pixels=("yuv422p10le", "yuv444p10le"),
        files=(".mov", ".mkv"),
        options=(("profile", "hq"),),
        segment="mov",
    ),
    "ffv1": Codec(
        encoder="ffv1",
        decoder="ffv1",
        quality=None,
        worst=0,
        pixels=("bgr0", "yuv444p"),
        files=(".mkv",),
    ),
}
"""By name; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoEncoding:
    """A choice of :data:`CODECS`, shown at ``rate`` frames per second: the model's own, or others by
    repeating or dropping frames. Raises ``InputError`` for an unknown or impossible one."""

    codec: str = "h264"
    quality: int | None = None
    pixels: str = ""
    rate: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.codec, CODECS, "video codec")
        codec, found = self.kind, f"quality {self.quality} in {self.codec}"
        check_choice(self.pixel_format, codec.pixels, f"pixel format of {self.codec}")
        if self.quality is not None and codec.quality is None:
            raise _encoding_error(found, "no quality: it is not adjustable")
        if self.quality is not None and not 0 <= self.quality <= codec.worst:
            raise _encoding_error(found, f"0 (best) to {codec.worst}")

    @property
    def kind(self) -> Codec:
        return CODECS[self.codec]

    @property
    def pixel_format(self) -> str:
        return self.pixels or self.kind.pixels[0]

    def facts(self) -> dict[str, Any]:
        """Everything that decides the encoded bytes, for the job's key."""
        quality = self.kind.quality if self.quality is None else self.quality
        facts = {"codec": self.codec, "quality": quality, "pixels": self.pixel_format}
        return facts | ({"rate": self.rate} if self.rate is not None else {})

    def shown(self, first: int, count: int, fps: int) -> list[int]:
        """Which of a segment's ``count`` frames at ``fps`` are shown, in order: each output frame shows the
        last one that has begun. ``first`` is the segment's first frame in the video. One is always shown."""
        rate = self.rate or fps
        begin, end = (-(-frame * rate // fps) for frame in (first, first + count))
        return [number * fps // rate - first for number in range(begin, end)] or [0]

    def check(self, suffix: str, width: int, height: int) -> None:
        """Raise ``InputError`` for a file type or a size that cannot be written."""
        if suffix.lower() not in self.kind.files:
            found = f"{self.codec} in {suffix or 'a file without ending'}"
            raise _encoding_error(found, " or ".join(self.kind.files))
        if "444" not in self.pixel_format and self.codec != "ffv1" and (width % 2 or height % 2):
            found = f"{width} x {height} px as {self.pixel_format}"
            raise _encoding_error(found, "even sides, or the pixel format yuv444p")


def _encoding_error(found: str, expected: str) -> InputError:
    return InputError(
        "This codec cannot encode this video.",
        found=found,
        expected=expected,
        fix="choose one of these, or remove the option to use the default",
    )


def encode_segment(frames: Iterable[Tensor], encoding: VideoEncoding, fps: int) -> bytes:
    """Encode frames [3, H, W] in 0..1, cut to 8 bits. Equal ones give equal bytes on any number of cores."""
    import av

    colours: dict[str, Any] = {}
    if encoding.pixel_format.startswith("yuv"):
        colours = {"dst_colorspace": BT709, "dst_color_range": LIMITED_RANGE}
    target, count, packets = BytesIO(), 0, list[Any]()
    with av.open(target, "w", format=encoding.kind.segment) as container:
        stream: Any = None
        for pixels in frames:
            picture = np.ascontiguousarray(to_uint8(pixels).permute(1, 2, 0).cpu().numpy())
            if stream is None:
                stream = _add_stream(container, encoding, picture.shape[1], picture.shape[0], fps)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, fps)
            packets += stream.encode(frame.reformat(format=encoding.pixel_format, **colours))
            count += 1
        if stream is not None:
            packets += stream.encode(None)
        for number, packet in enumerate(packets):
            if count < MIN_REORDERED_FRAMES:  # x265 leaves the times of so few frames unset
                packet.pts = packet.dts = number
            container.mux(packet)
    return target.getvalue()


def _add_stream(container: Any, encoding: VideoEncoding, width: int, height: int, fps: int) -> Any:
    options, quality = dict(encoding.kind.options), encoding.facts()["quality"]
    if quality is not None:
        options["crf"] = str(quality)
    stream = container.add_stream(encoding.kind.encoder, rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, encoding.pixel_format
    codec = stream.codec_context
    codec.thread_count = 1  # the number of threads would decide the bytes
    if encoding.codec == "h265":
        codec.codec_tag = "hvc1"
    if encoding.pixel_format.startswith("yuv"):
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
    return stream


@lru_cache(maxsize=16)
def stream_headers(encoding: VideoEncoding, width: int, height: int, fps: int) -> str:
    """A hash of the headers of every segment of this size: segments with other headers cannot be joined.
    Another build of the encoder may write others. Raises ``InputError`` if the encoder is not available."""
    import av

    if encoding.kind.encoder not in av.codecs_available:
        raise _encoding_error(f"{encoding.codec}, which this PyAV was built without", "another codec")
    blank = torch.zeros(3, height, width)
    with open_segment(encode_segment([blank], encoding, fps)) as (track, _):
        return hash_bytes(track.codec_context.extradata or b"")


def is_segment(data: bytes, frames: int, encoding: VideoEncoding, width: int, height: int, fps: int) -> bool:
    """Whether bytes are a segment of this number of frames, encoded like this: others can be joined to it.

    Files of other kinds are not looked into, and no other file or socket is opened.
    """
    with suppress(OutputError, ValueError):
        boxes = read_boxes(BytesIO(data))
        shape = *_read_size(boxes), _integer(boxes["stbl", "stsz"], 8)
        headers = [content for (_, name), content in boxes.items() if name in ("avcC", "hvcC", "glbl")]
        if shape != (width, height, frames) or (
            hash_bytes(b"".join(headers)) != stream_headers(encoding, width, height, fps)
        ):
            return False
        with open_segment(data) as (track, packets):
            step, times = Fraction(1, fps) / track.time_base, sorted(packet.pts for packet in packets)
            named = track.codec_context.name == encoding.kind.decoder
            return named and times == [number * step for number in range(frames)]
    return False


@contextmanager
def open_segment(data: bytes) -> Generator[tuple[Any, list[Any]]]:
    """The track of an encoded segment, and its packets. Raises ``OutputError`` for anything else."""
    from av.error import FFmpegError

    with ExitStack() as stack:
        try:
            decoders = ",".join(codec.decoder for codec in CODECS.values())
            track = stack.enter_context(open_mp4(BytesIO(data), "video", decoders))
            packets = [packet for packet in track.container.demux(track) if packet.size]
        except (FFmpegError, ValueError) as error:
            raise damage_error(error) from error
        yield track, packets


def damage_error(error: Exception) -> OutputError:
    return OutputError(
        "An encoded segment is damaged.",
        found=str(error),
        expected="the segment as it was encoded",
        fix="run the same again; if that does not help, with --fresh",
    )


@contextmanager
def open_mp4(file: BinaryIO, kind: str, decoders: str) -> Generator[Any]:
    """The one track of an MP4 or MOV that was kept, "video" or "audio". Raises ``ValueError`` or PyAV's
    ``FFmpegError`` for anything else."""
    import av

    boxes = read_boxes(file)
    file.seek(0)
    options = OPEN_OPTIONS | {"codec_whitelist": decoders}
    with av.open(file, format="mov", options=options) as container:
        tracks: list[Any] = [*container.streams]
        if [track.type for track in tracks] != [kind] or tracks[0].codec_context is None:
            raise ValueError(f"not one track of {kind} in a known codec")
        codec = tracks[0].codec_context
        if kind == "video" and (codec.width, codec.height) != _read_size(boxes):
            raise ValueError("a packet of another size")
        yield tracks[0]


def read_boxes(file: BinaryIO) -> dict[tuple[str, str], bytes]:
    """The content of every box by its name and what it is in, but for media. Raises ``ValueError`` for a file
    that is not as FFmpeg writes it: see :data:`BOXES`."""
    boxes, end = dict[tuple[str, str], bytes](), file.seek(0, 2)

    def read(start: int, stop: int, parent: str) -> None:
        while start < stop:
            file.seek(start)
            head = file.read(8)
            size, name = _integer(head), head[4:].decode("latin-1")
            if not 8 <= size <= stop - start or name not in BOXES[parent].split() or (parent, name) in boxes:
                raise ValueError(f"a box {name!r} of {size} bytes in {parent or 'the file'!r}")
            boxes[parent, name] = b"" if name == "mdat" else file.read(size - 8)
            if name in BOXES:
                read(start + 8 + BOX_STARTS.get(name, 0), start + size, name)
            start += size

    read(0, end, "")
    counts = [_integer(boxes.get(("stbl", name), bytes(8)), 4) for name in TABLES]
    sizes = boxes.get(("stbl", "stsz"), b"")
    if max(counts) > end or max(1, _integer(sizes, 4)) * _integer(sizes, 8) > end:
        raise ValueError("a table of more entries than the file has bytes")
    if len(boxes.get(("edts", "elst"), b"")) > EDIT_BYTES:
        raise ValueError("more than one edit")
    return boxes


def _read_size(boxes: Mapping[tuple[str, str], bytes]) -> tuple[int, int]:
    """The width and height of a video's frames. Raises ``ValueError`` if there is not one sample entry."""
    (entry,) = [content for (parent, _), content in boxes.items() if parent == "stsd"]
    return _integer(entry, 24, 2), _integer(entry, 26, 2)


def _integer(data: bytes, start: int = 0, size: int = 4) -> int:
    return int.from_bytes(data[start : start + size])


def to_uint8(frames: Tensor) -> Tensor:
    """0..1 -> 0..255, truncated as in the original (facts 9)."""
    return (frames * 255).to(torch.uint8)
