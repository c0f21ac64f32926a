"""One finished segment in one file: the encoded piece, the motion frames, and what was noted of it.

The file is a safetensors file. Its note names the note before it, as links of a chain do, so that a piece
that was swapped, cut or taken from elsewhere is found out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..checkpoints.tensor_entry import header_bytes
from ..checkpoints.tensor_file import TensorFile
from ..errors import CheckpointError
from ..storage.hashing import hash_tensor, raw_bytes

PIECE, MOTION, PIXELS = "piece", "motion", "pixels"
"""Tensors of a file: encoded video [bytes], motion frames [1, 3, m, H, W] float32, and, where asked for,
the frames themselves [F, 3, h, w]."""
NOTE, CHECK, JOB = "segment", "check", "job"
LARGEST_NOTE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """What is noted of a segment.

    ``previous`` is the link of the segment that this one went on from; ``link`` its own. ``take`` counts
    what was rendered in its place, and ``stands_for`` is the link that it had before, which the next
    segment may still name. ``piece`` and ``pixels`` are digests: of the encoded piece, and of the frames
    before they were encoded. ``seconds`` it took; ``measures`` are numbers of any meaning.
    """

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
        """Whether this segment went on from that one, or from the job's ``root``."""
        if before is None:
            return self.previous == root
        return self.previous in (before.link, before.stands_for)


def compute_link(previous: str, index: int, frames: int, take: int, pixels: str, motion: Tensor) -> str:
    """The link of a segment: its frames, and all that came before. How they are encoded is not in it, so that
    a segment that must be rendered again is the same one whatever its encoder does."""
    parts = previous, str(index), str(frames), str(take), pixels, hash_tensor(motion)
    return sha256("|".join(parts).encode()).hexdigest()


def serialize_segment(
    record: SegmentRecord, about: str, tensors: Mapping[str, Tensor]
) -> Iterator[bytes | memoryview]:
    """The bytes of a segment's file; ``about`` says which job it belongs to."""
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    held = {name: tensors[name].detach().cpu().contiguous() for name in order}
    note = json.dumps(asdict(record), sort_keys=True)
    metadata = {NOTE: note, JOB: about, CHECK: sha256((note + about).encode()).hexdigest()}
    yield header_bytes(((name, t.dtype, tuple(t.shape)) for name, t in held.items()), metadata)
    for tensor in held.values():
        yield raw_bytes(tensor)


def read_note(path: Path) -> tuple[SegmentRecord, str] | None:
    """A file's record and job, the tensors left unread; None for a file that is absent or damaged. Raises
    ``OSError`` for one that is there and cannot be read."""
    return _understood(path, _noted)


def read_segment(path: Path, *more: str) -> tuple[SegmentRecord, dict[str, Tensor]] | None:
    """A segment's record and tensors; None for a file that is absent, cut or altered anywhere in them.

    ``more`` names what else is wanted; it is left out if it is not there. Raises ``OSError`` for a file
    that is there and cannot be read: it may be sound all the same.
    """

    def read(file: TensorFile) -> tuple[SegmentRecord, dict[str, Tensor]]:
        names = {PIECE, MOTION, *more} & file.entries.keys()
        return _noted(file)[0], {name: file.read(name) for name in names}

    both = _understood(path, read)
    if both is None or not {PIECE, MOTION} <= both[1].keys() or both[1][MOTION].dtype != torch.float32:
        return None
    found, tensors = both
    link = compute_link(found.previous, found.index, found.frames, found.take, found.pixels, tensors[MOTION])
    if link != found.link or hash_tensor(tensors[PIECE]) != found.piece:
        return None
    if PIXELS in tensors and found.pixels != hash_tensor(tensors[PIXELS]):
        del tensors[PIXELS]
    return found, tensors


T = TypeVar("T")


def _understood(path: Path, read: Callable[[TensorFile], T]) -> T | None:
    """What is read of a file, None of a damaged one. Raises ``OSError`` if the system cannot read it."""
    try:
        with TensorFile(path) as file:
            return read(file)
    except CheckpointError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and path.exists():
            raise cause from error
    except ValueError:
        pass
    return None


def _noted(file: TensorFile) -> tuple[SegmentRecord, str]:
    """Raises ``ValueError`` for a note that is missing or not the one that was written."""
    note, about = file.metadata.get(NOTE, ""), file.metadata.get(JOB, "")
    if len(note) > LARGEST_NOTE or sha256((note + about).encode()).hexdigest() != file.metadata.get(CHECK):
        raise ValueError("the note of a segment is damaged")
    return _record(json.loads(note)), about


def _record(said: Any) -> SegmentRecord:
    kinds = {"index": int, "frames": int, "take": int, "seconds": float, "measures": dict}
    if not isinstance(said, dict) or set(cast("dict[str, Any]", said)) != {
        f.name for f in fields(SegmentRecord)
    }:
        raise ValueError("no note of a segment")
    values = cast("dict[str, Any]", said)
    for name, value in values.items():
        if not isinstance(value, kinds.get(name, str)):
            raise ValueError(f"{name} is no {kinds.get(name, str).__name__}")
    measures = cast("dict[str, Any]", values["measures"])
    if not all(isinstance(value, float) and math.isfinite(value) for value in measures.values()):
        raise ValueError("measures that are no numbers")
    return SegmentRecord(**values)
