"""Video encoding: codecs, and the frames of a segment as an encoded file.

Every segment has its own encoder: its file depends on its frames only, starts with a key frame, and has the
same headers as every other one, so that segments can be joined without re-encoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, check_choice
from ..storage.hashing import hash_bytes

BT709, LIMITED_RANGE = 1, 1
MIN_REORDERED_FRAMES = 3
"""Encoders do not change the order of fewer."""
DETERMINISTIC = "b-adapt=0:scenecut=0:weightp=0"
"""Otherwise both encoders read uninitialised memory in their look-ahead, and equal frames below 256 px per
side sometimes gave different files (tests/media/test_video.py)."""
H265 = "pools=none:frame-threads=1:ctu=16"
MP4_SUFFIXES = (".mp4", ".mov", ".mkv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """FFmpeg's ``encoder``; its default ``quality`` and the ``worst`` (0 is best; None: not adjustable); its
    pixel formats, the first is the default; file endings; and the format of a ``segment``."""

    encoder: str
    quality: int | None
    worst: int
    pixels: tuple[str, ...]
    files: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    segment: str = "mp4"


CODECS = {
    "h264": Codec(
        encoder="libx264",
        quality=17,
        worst=51,
        pixels=("yuv420p", "yuv444p", "yuv420p10le"),
        files=MP4_SUFFIXES,
        options=(("preset", "medium"), ("x264-params", f"mbtree=0:rc-lookahead=0:{DETERMINISTIC}")),
    ),
    "h265": Codec(
        encoder="libx265",
        quality=20,
        worst=51,
        pixels=("yuv420p", "yuv420p10le", "yuv444p"),
        files=MP4_SUFFIXES,
        options=(("preset", "medium"), ("x265-params", f"log-level=none:{H265}:cutree=0:{DETERMINISTIC}")),
    ),
    "prores": Codec(
        encoder="prores_ks",
        quality=None,
        worst=0,
        pixels=("yuv422p10le", "yuv444p10le"),
        files=(".mov", ".mkv"),
        options=(("profile", "hq"),),
        segment="mov",
    ),
    "ffv1": Codec(encoder="ffv1", quality=None, worst=0, pixels=("bgr0", "yuv444p"), files=(".mkv",)),
}
"""By name; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoEncoding:
    """A choice of :data:`CODECS`. Raises ``InputError`` for an unknown or impossible one."""

    codec: str = "h264"
    quality: int | None = None
    pixels: str = ""

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
        return {"codec": self.codec, "quality": quality, "pixels": self.pixel_format}

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


def stream_headers(encoding: VideoEncoding, width: int, height: int, fps: int) -> str:
    """A hash of the headers of every segment of this size: segments with other headers cannot be joined.
    Another build of the encoder may write others. Raises ``InputError`` if the encoder is not available."""
    import av

    if encoding.kind.encoder not in av.codecs_available:
        raise _encoding_error(f"{encoding.codec}, which this PyAV was built without", "another codec")
    blank = torch.zeros(3, height, width)
    with av.open(BytesIO(encode_segment([blank], encoding, fps))) as container:
        extra: bytes = container.streams.video[0].codec_context.extradata or b""
    return hash_bytes(extra)


def to_uint8(frames: Tensor) -> Tensor:
    """0..1 -> 0..255, truncated as in the original (facts 9)."""
    return (frames * 255).to(torch.uint8)
