"""One finished segment in one file: the encoded segment, its motion frames and a record.

A safetensors file. Its record names the record of the segment before, like the links of a chain, so that a
segment that was swapped, cut or copied from elsewhere is detected.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checkpoints.tensor_entry import header_bytes
from ..checkpoints.tensor_file import TensorFile
from ..config import SegmentConfig
from ..errors import CheckpointError
from ..media.video import VideoEncoding, is_segment, stream_headers
from ..storage.files import open_regular, parse_json_object
from ..storage.hashing import hash_tensor, hash_text, raw_bytes

PIECE, MOTION, PIXELS = "piece", "motion", "pixels"
"""Tensors of a file: encoded video [bytes], motion frames [1, 3, m, H, W] float32, and optionally the frames
[F, 3, h, w]."""
NOTE, CHECK, JOB = "segment", "check", "job"
"""Metadata of a file: the record, a hash of record and manifest, the job's manifest."""
MAX_NOTE_CHARACTERS, MAX_HEADER_BYTES = 1 << 16, 1 << 18
MAX_SEGMENTS, MAX_FRAMES, MAX_TAKE, MAX_MEASURE = 999_999, 100_000_000, 10**18, 1e9
"""Of a video with all that it continues: its files have numbers of six digits."""
HASH = re.compile("[0-9a-f]{64}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """``previous`` is the link of the segment that this one continues, ``link`` its own. ``take`` numbers the
    renderings of a segment; ``stands_for`` is the link that it had before, which the next segment may still
    name. ``piece`` and ``pixels`` are hashes of the encoded segment and of the frames before encoding.
    ``seconds`` it took to render; ``measures`` are any finite numbers."""

    index: int
    frames: int
    take: int
    previous: str
    link: str
    stands_for: str = ""
    piece: str
    pixels: str
    seconds: float = 0.0
    measures: Mapping[str, float] = field(default_factory=dict[str, float])

    def follows(self, before: SegmentRecord | None, root: str) -> bool:
        """Whether this segment continues that one, or starts the job of key ``root``."""
        if before is None:
            return self.previous == root
        return self.previous in (before.link, before.stands_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFormat:
    """What every segment of a video is like: the canvas and frames of the model, and the encoded stream."""

    config: SegmentConfig
    encoding: VideoEncoding
    size: tuple[int, int]
    """Of the video: (width, height)."""

    @property
    def headers(self) -> str:
        """A hash of what every encoded segment starts with."""
        return stream_headers(self.encoding, *self.size, self.rate)

    @property
    def rate(self) -> int:
        """Frames that are shown per second."""
        return self.encoding.rate or self.config.fps

    @property
    def motion(self) -> tuple[int, ...]:
        """The shape of motion frames."""
        return 1, 3, self.config.motion_frames, self.config.height, self.config.width

    def pixels(self, frames: int) -> tuple[int, ...]:
        """The shape of kept frames."""
        return frames, 3, self.config.height, self.config.width

    @property
    def max_piece_bytes(self) -> int:
        """More than any codec makes of one segment."""
        times = -(-self.rate // self.config.fps)
        return times * self.config.frames * math.prod(self.size) * 8 + (1 << 20)

    @property
    def max_file_bytes(self) -> int:
        frames = math.prod(self.motion) + math.prod(self.pixels(self.config.frames))
        return MAX_HEADER_BYTES + 4 * frames + self.max_piece_bytes

    def fits(self, record: SegmentRecord, piece: bytes) -> bool:
        """Whether an encoded segment is of this stream, and has the frames of its record."""
        exact = record.frames * self.rate
        counts = {max(1, exact // self.config.fps), max(1, -(-exact // self.config.fps))}
        return any(is_segment(piece, count, self.encoding, *self.size, self.rate) for count in sorted(counts))


def compute_link(previous: str, index: int, frames: int, take: int, pixels: str, motion: Tensor) -> str:
    """The link of a segment: its frames and all that came before. Encoded bytes are not part of it, so that a
    segment that is rendered again has the same link with any encoder."""
    parts = previous, str(index), str(frames), str(take), pixels, hash_tensor(motion)
    return hash_text("|".join(parts))


def serialize_segment(
    record: SegmentRecord, manifest: str, tensors: Mapping[str, Tensor]
) -> Iterator[bytes | memoryview]:
    """The bytes of a segment's file, with the manifest of its job."""
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    stored = {name: tensors[name].detach().cpu().contiguous() for name in order}
    note = json.dumps(asdict(record), sort_keys=True)
    metadata = {NOTE: note, JOB: manifest, CHECK: hash_text(note + manifest)}
    yield header_bytes(((name, t.dtype, tuple(t.shape)) for name, t in stored.items()), metadata)
    for tensor in stored.values():
        yield raw_bytes(tensor)


def read_note(path: Path) -> tuple[SegmentRecord, str] | None:
    """A file's record and manifest, without reading its tensors; None for a missing or damaged file. Raises
    ``OSError`` for one that exists and cannot be read."""
    return _read(path, _parse_note)


def read_segment(
    path: Path, form: SegmentFormat, *optional: str
) -> tuple[SegmentRecord, dict[str, Tensor]] | None:
    """A segment's record and tensors, with those ``optional`` ones that are there; None for a file that is
    missing, cut, altered or of another form. Raises ``OSError`` for one that exists and cannot be read: it
    may be intact all the same.
    """

    def read(file: TensorFile) -> tuple[SegmentRecord, dict[str, Tensor]]:
        record, entries = _parse_note(file)[0], file.entries
        piece, motion, pixels = (entries.get(name) for name in (PIECE, MOTION, PIXELS))
        if piece is None or piece.dtype != torch.uint8 or piece.nbytes > form.max_piece_bytes:
            raise ValueError("no encoded segment")
        if motion is None or (motion.dtype, motion.shape) != (torch.float32, form.motion):
            raise ValueError("no motion frames")
        names = {PIECE, MOTION}
        if pixels is not None and (pixels.dtype, pixels.shape) == (torch.float32, form.pixels(record.frames)):
            names |= {*optional}
        return record, {name: file.read(name) for name in names}

    segment = _read(path, read, form.max_file_bytes)
    if segment is None:
        return None
    record, tensors = segment
    link = compute_link(
        record.previous, record.index, record.frames, record.take, record.pixels, tensors[MOTION]
    )
    if link != record.link or hash_tensor(tensors[PIECE]) != record.piece:
        return None
    if not (bool(tensors[MOTION].isfinite().all()) and form.fits(record, tensors[PIECE].numpy().tobytes())):
        return None
    pixels = tensors.get(PIXELS)
    if pixels is not None and (record.pixels != hash_tensor(pixels) or not bool(pixels.isfinite().all())):
        del tensors[PIXELS]
    return record, tensors


def _read(path: Path, parse: Callable[[TensorFile], T], max_bytes: int = 1 << 62) -> T | None:
    try:
        file = open_regular(path, follow_links=False)
    except FileNotFoundError:
        return None
    try:
        with file:
            size, header = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
            if size <= max_bytes and header <= MAX_HEADER_BYTES:
                return parse(TensorFile(path, file))
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
    except ValueError:
        pass
    return None


def _parse_note(file: TensorFile) -> tuple[SegmentRecord, str]:
    """Raises ``ValueError`` for a note that is missing or not the one that was written."""
    note, manifest = file.metadata.get(NOTE, ""), file.metadata.get(JOB, "")
    check = hash_text(note + manifest)
    if len(note) > MAX_NOTE_CHARACTERS or check != file.metadata.get(CHECK):
        raise ValueError("the segment's note is damaged")
    values = parse_json_object(note)
    types = {"index": int, "frames": int, "take": int, "seconds": float, "measures": dict}
    if values.keys() != {f.name for f in fields(SegmentRecord)}:
        raise ValueError("not a segment's note")
    for name, value in values.items():
        if not isinstance(value, types.get(name, str)):
            raise ValueError(f"{name} is no {types.get(name, str).__name__}")
    measures: dict[str, Any] = values["measures"]
    if not all(isinstance(value, float) and abs(value) < MAX_MEASURE for value in measures.values()):
        raise ValueError("measures that no segment has")
    limits = {"index": MAX_SEGMENTS, "frames": MAX_FRAMES, "take": MAX_TAKE}
    if not all(type(values[name]) is int and 0 <= values[name] <= most for name, most in limits.items()):
        raise ValueError("numbers that no segment has")
    hashes = ("previous", "link", "piece", "pixels", *(["stands_for"] if values["stands_for"] else []))
    if not all(HASH.fullmatch(values[name]) for name in hashes) or not 0 <= values["seconds"] < MAX_MEASURE:
        raise ValueError("hashes or a time that no segment has")
    return SegmentRecord(**values), manifest
