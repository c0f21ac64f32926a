"""A job: a folder with one file per finished segment, a manifest, and a lock.

A commit is one file written atomically, so that a crash at any point leaves all finished segments and at most
one more to render. The manifest can be made again from any segment; nothing depends on it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import OutputError
from ..progress import ProgressCallback, no_progress
from ..storage.files import TEMPORARY_SUFFIX, parse_json_object, read_json_object, write_atomic, write_error
from ..storage.hashing import BLOCK_BYTES, hash_tensor, hash_text
from ..storage.lock import lock_folder
from .segment_file import (
    MOTION,
    PIECE,
    PIXELS,
    SegmentRecord,
    compute_link,
    read_note,
    read_segment,
    serialize_segment,
)

MANIFEST_FILENAME, SEGMENTS_DIR = "job.json", "segments"
CONTENT, PARENT, MADE_WITH, THREADS = "content", "goes on from", "made with", "threads"
"""Entries of ``info``: the finished file's hash, the job that this one continues, what computed it, with how
many threads."""
FORMAT = 1
"""Of the folder; an older version of the package refuses a newer one."""
HEADLINE = "Finished segments of the video cannot be saved."
UNREADABLE = "A finished segment cannot be read."


@dataclass(frozen=True, slots=True, kw_only=True)
class JobManifest:
    """``key`` decides the folder's name; ``root`` is the key of the first job in a chain of continued videos;
    ``segments`` and ``frames`` of the whole video; ``headers`` of its encoded segments, which can be joined
    only with others of the same headers; ``what`` is for people: portrait, speech, model."""

    key: str
    root: str
    segments: int
    frames: int
    headers: str
    what: Mapping[str, str] = field(default_factory=dict[str, str])
    finished: bool = False
    format: int = FORMAT

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def parse_manifest(fields: Mapping[str, Any]) -> JobManifest:
    """Raises ``ValueError`` for anything but the fields of a manifest."""
    texts, numbers = ("key", "root", "headers"), ("segments", "frames", "format")
    info: Any = fields.get("what")
    valid = [isinstance(fields.get(name), str) for name in texts]
    valid += [type(fields.get(name)) is int for name in numbers]
    if not all(valid) or not isinstance(info, dict) or not isinstance(fields.get("finished"), bool):
        raise ValueError("not a job's manifest")
    known = {name: fields[name] for name in (*texts, *numbers, "finished")}
    return JobManifest(**known, what={str(k): str(v) for k, v in cast("dict[Any, Any]", info).items()})


def write_manifest(folder: Path, manifest: JobManifest) -> None:
    """Raises ``OutputError``."""
    try:
        write_atomic(folder / MANIFEST_FILENAME, [manifest.text().encode()])
    except OSError as error:
        raise write_error(HEADLINE, folder / MANIFEST_FILENAME, error) from error


def read_manifest(folder: Path) -> JobManifest | None:
    """A folder's manifest, or else the one in its segments; None for a folder that is no job."""
    with suppress(OSError, ValueError):
        return parse_manifest(read_json_object(folder / MANIFEST_FILENAME))
    for path in sorted((folder / SEGMENTS_DIR).glob("*.safetensors")):
        with suppress(OSError, ValueError):
            note = read_note(path)
            if note is not None:
                return parse_manifest(parse_json_object(note[1]))
    return None


def _check_format(folder: Path) -> None:
    """Raises ``OutputError`` for a folder that a newer version of the package wrote."""
    try:
        version = read_json_object(folder / MANIFEST_FILENAME).get("format")
    except (OSError, ValueError):
        return
    if isinstance(version, int) and version > FORMAT:
        raise OutputError(
            "The job was started by a newer version of Hallo3.",
            found=f"{folder} of format {version}",
            expected=f"format {FORMAT} or older",
            fix="update Hallo3, or start over in another folder",
        )


def job_folder(jobs: Path, key: str) -> Path:
    return jobs / key[:16]


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; files that disappear meanwhile are not counted."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def move_job(folder: Path, target: Path) -> None:
    """Raises ``OutputError`` if another run holds the folder or it cannot be renamed."""
    try:
        with lock_folder(folder, "this job", note=False):
            if os.name != "nt":  # while it is locked
                folder.rename(target)
        if os.name == "nt":  # a folder with an open file cannot be renamed on Windows
            folder.rename(target)
    except OSError as error:
        raise write_error("The job cannot be removed.", folder, error) from error


def remove_job(folder: Path) -> None:
    """Raises ``OutputError`` if another run holds the folder or it cannot be removed."""
    trash = folder.with_name(f"{folder.name}.gone")
    move_job(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


class Job:
    """An open job. ``records`` has a record for each segment whose file is intact, else None."""

    def __init__(self, folder: Path, manifest: JobManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.records: list[SegmentRecord | None] = [None] * manifest.segments
        self._notes = dict[int, SegmentRecord]()  # of damaged files whose note is still readable

    def check_segments(self, progress: ProgressCallback = no_progress) -> None:
        """Read every segment's file and remember the intact ones.

        Raises ``OutputError`` for a file that exists and cannot be read: it may be intact all the same.
        """
        for index in range(self.manifest.segments):
            path = self.path(index)
            try:
                segment = read_segment(path) if path.exists() else None
                if segment is None and path.exists() and (note := read_note(path)):
                    self._notes[index] = note[0]
            except OSError as error:
                raise write_error(UNREADABLE, path, error) from error
            self.records[index] = segment[0] if segment and segment[0].index == index else None
            progress(1)

    def take(self, index: int) -> int:
        """The take number of a segment; 0 if there is no readable one."""
        record = self.records[index] or self._notes.get(index)
        return record.take if record else 0

    @property
    def done(self) -> int:
        """How many segments need not be rendered if the missing ones come out as before."""
        total = range(self.manifest.segments)
        return sum(self.finished(index) is not None and self.path(index).exists() for index in total)

    @property
    def state(self) -> str:
        """A hash of all segments: another take of any is another state."""
        return hash_text("|".join(record.link if record else "" for record in self.records))

    def finished(self, index: int) -> SegmentRecord | None:
        """A segment's record if it is intact and continues the one before as that is now."""
        record = self.records[index]
        before = self.records[index - 1] if index else None
        if record is None or (index and before is None):
            return None
        return record if record.follows(before, self.manifest.root) else None

    def commit(
        self,
        index: int,
        tensors: Mapping[str, Tensor],
        *,
        take: int = 0,
        seconds: float = 0.0,
        measures: Mapping[str, float] | None = None,
        keep_pixels: bool = False,
    ) -> SegmentRecord:
        """Save a segment in place of an earlier one: its ``PIECE`` and ``MOTION``, and on request its
        ``PIXELS``. The segment before must be finished.

        Raises ``OutputError`` if it cannot be written; nothing has changed then.
        """
        before, pixels = self.records[index - 1] if index else None, hash_tensor(tensors[PIXELS])
        previous, frames = before.link if before else self.manifest.root, len(tensors[PIXELS])
        link = compute_link(previous, index, frames, take, pixels, tensors[MOTION])
        record = SegmentRecord(
            index=index,
            frames=frames,
            take=take,
            previous=previous,
            link=link,
            stands_for=self._link_in_next(index, link),
            piece=hash_tensor(tensors[PIECE]),
            pixels=pixels,
            seconds=seconds,
            measures=measures or {},
        )
        if self.manifest.finished:  # it will be another video
            self.manifest = replace(self.manifest, finished=False)
            write_manifest(self.folder, self.manifest)
        path = self.path(index)
        stored = {name: tensor for name, tensor in tensors.items() if keep_pixels or name != PIXELS}
        try:
            write_atomic(path, serialize_segment(record, self.manifest.text(), stored))
        except OSError as error:
            size = sum(tensor.nbytes for tensor in stored.values())
            raise write_error(HEADLINE, path, error, size) from error
        self.records[index] = record
        return record

    def motion(self, index: int) -> Tensor:
        """Motion frames [1, 3, m, H, W] of a finished segment."""
        return self._read(index)[MOTION]

    def piece(self, index: int) -> bytes:
        """A finished segment, encoded. Raises ``OutputError`` if its file has changed."""
        return self._read(index)[PIECE].numpy().tobytes()

    def pixels(self, index: int) -> Tensor | None:
        """A finished segment's frames [F, 3, h, w], if they were kept."""
        return self._read(index, PIXELS).get(PIXELS)

    def finish(self, content: str = "") -> None:
        """Note that the whole video is finished, and the hash of its file."""
        self.manifest = replace(self.manifest, finished=True)
        self.note(CONTENT, content)

    def note(self, entry: str, text: str) -> None:
        """Save an entry of the manifest's ``what``. Raises ``OutputError``."""
        self.manifest = replace(self.manifest, what={**self.manifest.what, entry: text})
        write_manifest(self.folder, self.manifest)

    def path(self, index: int) -> Path:
        return self.folder / SEGMENTS_DIR / f"{index:06d}.safetensors"

    def _link_in_next(self, index: int, link: str) -> str:
        """The link by which the next segment, rendered after another take of this one, still names it."""
        old = self.records[index] or self._notes.get(index)
        after = self.records[index + 1] if index + 1 < len(self.records) else None
        if old is None or after is None or after.previous == link or not after.follows(old, ""):
            return ""
        return after.previous

    def _read(self, index: int, *more: str) -> dict[str, Tensor]:
        record, path = self.records[index], self.path(index)
        try:
            segment = read_segment(path, *more)
        except OSError as error:
            raise write_error(UNREADABLE, path, error) from error
        if record is None or segment is None or segment[0].link != record.link:
            raise OutputError(
                "A finished segment is damaged.",
                found=f"{path} has changed since it was written",
                expected="unchanged files in a job's folder",
                fix="run the same again: only this segment is rendered again",
            )
        return segment[1]


@contextmanager
def open_job(jobs: Path, manifest: JobManifest, progress: ProgressCallback = no_progress) -> Generator[Job]:
    """The job of this key in the folder ``jobs``, created if it is new, locked while the block lasts.

    Raises ``OutputError`` if another run holds it, a newer version wrote it, or it cannot be written.
    """
    folder = job_folder(jobs, manifest.key)
    with ExitStack() as stack:
        try:
            (folder / SEGMENTS_DIR).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(folder, "this video"))
            for place in (folder, folder / SEGMENTS_DIR):
                for path in place.glob(f"*{TEMPORARY_SUFFIX}"):  # half written when a run crashed
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(HEADLINE, folder, error) from error
        _check_format(folder)
        known = read_manifest(folder)
        if known is not None and known.key == manifest.key and known.finished:
            manifest = replace(manifest, finished=True, what={**known.what, **manifest.what})
        write_manifest(folder, manifest)
        job = Job(folder, manifest)
        job.check_segments(progress)
        yield job


def inherit_segments(job: Job, parent: Job) -> None:
    """Start a job with all segments of another, which is complete and has the same root.

    Raises ``OutputError`` if they cannot be copied.
    """
    for index, record in enumerate(parent.records):
        path = job.path(index)
        if record is None or job.records[index] is not None:
            continue
        try:
            write_atomic(path, _blocks(parent.path(index)))
        except OSError as error:
            raise write_error(HEADLINE, path, error, parent.path(index).stat().st_size) from error
        job.records[index] = record


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
