"""How video is encoded, and a segment's frames as one encoded piece.

A piece is a small video file of its own, by an encoder of its own: it depends on its frames and nothing else,
begins with a key frame, and has the same headers as every other piece: pieces can be joined as they are.
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

from ..errors import InputError
from ..storage.hashing import hash_bytes

BT709, LIMITED = 1, 1
REORDERABLE = 3
"""Frames from which on an encoder may put them in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A codec: FFmpeg's ``encoder``; the ``quality`` that is used if none is asked for, and its limits (lower
    is better; None: nothing to choose); kinds of ``pixels`` and of ``files`` that can hold it; the format of
    a ``piece``."""

    encoder: str
    quality: int | None
    worst: int
    pixels: tuple[str, ...]
    files: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    piece: str = "mp4"


ALIKE = "b-adapt=0:scenecut=0:weightp=0"
"""Looking ahead, both encoders read memory that nobody has written: equal frames below 256 px a side came out
differently now and then. Without it they come out alike (tests/media/test_encoding.py)."""
H265 = "pools=none:frame-threads=1:ctu=16"
MP4 = (".mp4", ".mov", ".mkv")
CODECS = {
    "h264": Codec(
        encoder="libx264",
        quality=17,
        worst=51,
        pixels=("yuv420p", "yuv444p", "yuv420p10le"),
        files=MP4,
        options=(("preset", "medium"), ("x264-params", f"mbtree=0:rc-lookahead=0:{ALIKE}")),
    ),
    "h265": Codec(
        encoder="libx265",
        quality=20,
        worst=51,
        pixels=("yuv420p", "yuv420p10le", "yuv444p"),
        files=MP4,
        options=(("preset", "medium"), ("x265-params", f"log-level=none:{H265}:cutree=0:{ALIKE}")),
    ),
    "prores": Codec(
        encoder="prores_ks",
        quality=None,
        worst=0,
        pixels=("yuv422p10le", "yuv444p10le"),
        files=(".mov", ".mkv"),
        options=(("profile", "hq"),),
        piece="mov",
    ),
    "ffv1": Codec(encoder="ffv1", quality=None, worst=0, pixels=("bgr0", "yuv444p"), files=(".mkv",)),
}
"""By name; the first is used if none is asked for, and so is the first kind of pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoEncoding:
    """A choice among :data:`CODECS`. Raises ``InputError`` for what does not exist or does not fit."""

    codec: str = "h264"
    quality: int | None = None
    pixels: str = ""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise _impossible(f"codec {self.codec!r}", " or ".join(CODECS))
        kind = CODECS[self.codec]
        if self.pixels and self.pixels not in kind.pixels:
            raise _impossible(f"pixels {self.pixels!r} in {self.codec}", " or ".join(kind.pixels))
        if self.quality is None:
            return
        if kind.quality is None:
            raise _impossible(f"quality {self.quality} in {self.codec}", "no quality: it is lossless")
        if not 0 <= self.quality <= kind.worst:
            raise _impossible(f"quality {self.quality} in {self.codec}", f"0 (best) to {kind.worst}")

    @property
    def kind(self) -> Codec:
        """The codec."""
        return CODECS[self.codec]

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the kind of pixels."""
        return self.pixels or self.kind.pixels[0]

    def facts(self) -> dict[str, Any]:
        """What decides the encoded bytes."""
        quality = self.kind.quality if self.quality is None else self.quality
        return {"codec": self.codec, "quality": quality, "pixels": self.pixel_format}

    def check(self, suffix: str, width: int, height: int) -> None:
        """Refuse a kind of file or a size that cannot be written. Raises ``InputError``."""
        if suffix.lower() not in self.kind.files:
            raise _impossible(
                f"{self.codec} in {suffix or 'a file without ending'}", " or ".join(self.kind.files)
            )
        if "444" not in self.pixel_format and self.codec != "ffv1" and (width % 2 or height % 2):
            raise _impossible(
                f"{width} x {height} px as {self.pixel_format}", "even sides, or pixels yuv444p"
            )


def encode_segment(frames: Iterable[Tensor], encoding: VideoEncoding, fps: int) -> bytes:
    """Frames, each [3, H, W] in 0..1, as a piece; values are truncated to 8 bits, as the original does.

    Equal frames give equal bytes on any number of cores.
    """
    import av

    target, count, packets = BytesIO(), 0, list[Any]()
    with av.open(target, "w", format=encoding.kind.piece) as container:
        stream: Any = None
        for pixels in frames:
            picture = np.ascontiguousarray(to_uint8(pixels).permute(1, 2, 0).cpu().numpy())
            if stream is None:
                stream = _stream(container, encoding, picture.shape[1], picture.shape[0], fps)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, fps)
            packets += stream.encode(_converted(frame, encoding.pixel_format))
            count += 1
        if stream is not None:
            packets += stream.encode(None)
        for number, packet in enumerate(packets):
            if count < REORDERABLE:  # x265 leaves the times of so few frames unset
                packet.pts = packet.dts = number
            container.mux(packet)
    return target.getvalue()


def stream_headers(encoding: VideoEncoding, width: int, height: int, fps: int) -> str:
    """A hash of what every piece of this size begins with: pieces with other headers cannot be joined.

    Another build of the encoder may write others. Raises ``InputError`` if the encoder is not there.
    """
    import av

    if encoding.kind.encoder not in av.codecs_available:
        raise _impossible(f"{encoding.codec}, which this PyAV was built without", "another codec")
    blank = torch.zeros(3, height, width)
    with av.open(BytesIO(encode_segment([blank], encoding, fps))) as container:
        extra: bytes = container.streams.video[0].codec_context.extradata or b""
    return hash_bytes(extra)


def to_uint8(frames: Tensor) -> Tensor:
    """0..1 -> 0..255 by truncation, as the original writes (facts 9)."""
    return (frames * 255).to(torch.uint8)


def _stream(container: Any, encoding: VideoEncoding, width: int, height: int, fps: int) -> Any:
    facts, kind = encoding.facts(), encoding.kind
    options = dict(kind.options)
    if facts["quality"] is not None:
        options["crf"] = str(facts["quality"])
    stream = container.add_stream(kind.encoder, rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, encoding.pixel_format
    codec = stream.codec_context
    codec.thread_count = 1  # the number of threads would decide the bytes
    if encoding.codec == "h265":
        codec.codec_tag = "hvc1"
    if encoding.pixel_format.startswith("yuv"):
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED
    return stream


def _converted(frame: Any, pixels: str) -> Any:
    if pixels.startswith("yuv"):
        return frame.reformat(format=pixels, dst_colorspace=BT709, dst_color_range=LIMITED)
    return frame.reformat(format=pixels)


def _impossible(found: str, expected: str) -> InputError:
    return InputError(
        "The video cannot be encoded so.",
        found=found,
        expected=expected,
        fix="choose one of these, or leave the choice out",
    )
