"""A job's folder: one file a finished segment, a description, and a lock.

A commit is one file written whole, so that a crash at any point leaves all finished segments and at most
one more to do. The description can be made again from any segment; nothing depends on it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import OutputError
from ..storage.atomic import write_atomic, write_error
from ..storage.hashing import hash_tensor
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
CONTENT, PARENT, MADE_WITH = "content", "goes on from", "made with"
"""Among what is for people: the finished file's hash, the job it goes on from, what computed it."""
FORMAT = 1
"""Of the folder. An older program refuses a newer one's."""
HEADLINE = "What is finished of the video cannot be kept."
LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class JobManifest:
    """A job: its ``key``, from which its folder has its name; the ``root`` of its chain; ``segments`` and
    ``frames`` in all; ``headers`` of its pieces, which can only be joined with their like. ``what`` is for
    people: portrait, speech, model. ``format`` is the folder's."""

    key: str
    root: str
    segments: int
    frames: int
    headers: str
    what: Mapping[str, str] = field(default_factory=dict[str, str])
    finished: bool = False
    format: int = FORMAT

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def parse_manifest(text: str) -> JobManifest:
    """From JSON. Raises ``ValueError`` for anything else."""
    said = _object(text)
    texts, numbers = ("key", "root", "headers"), ("segments", "frames", "format")
    what: Any = said.get("what")
    right = [isinstance(said.get(name), str) for name in texts]
    right += [type(said.get(name)) is int for name in numbers]
    if not all(right) or not isinstance(what, dict) or not isinstance(said.get("finished"), bool):
        raise ValueError("no description of a job")
    known = {name: said[name] for name in (*texts, *numbers, "finished")}
    return JobManifest(**known, what={str(k): str(v) for k, v in cast("dict[Any, Any]", what).items()})


def write_manifest(folder: Path, about: JobManifest) -> None:
    """Describe a job, for listing it. Raises ``OutputError``."""
    try:
        write_atomic(folder / MANIFEST_FILENAME, [about.text().encode()])
    except OSError as error:
        raise write_error(HEADLINE, folder / MANIFEST_FILENAME, error) from error


def read_manifest(folder: Path) -> JobManifest | None:
    """What a folder's job is, by its description or else by its segments; None where it is no job."""
    try:
        return parse_manifest(_read(folder / MANIFEST_FILENAME))
    except (OSError, ValueError):
        pass
    for path in sorted((folder / SEGMENTS_DIR).glob("*.safetensors")):
        with suppress(OSError, ValueError):
            noted = read_note(path)
            if noted is not None:
                return parse_manifest(noted[1])
    return None


def check_format(folder: Path) -> None:
    """Refuse a folder that a newer program has written. Raises ``OutputError``."""
    try:
        found = _object(_read(folder / MANIFEST_FILENAME)).get("format")
    except (OSError, ValueError):
        return
    if isinstance(found, int) and found > FORMAT:
        raise OutputError(
            "The job was begun by a newer version of Hallo3.",
            found=f"{folder} of format {found}",
            expected=f"format {FORMAT} or older",
            fix="update Hallo3, or start again in another folder",
        )


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(LARGEST).decode()


def _object(text: str) -> dict[str, Any]:
    try:
        said: object = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(said, dict):
        raise ValueError("no JSON object")
    return cast("dict[str, Any]", said)


def job_folder(jobs: Path, key: str) -> Path:
    """Where the job of a key is kept."""
    return jobs / key[:16]


def folder_size(folder: Path) -> int:
    """Bytes that a folder holds; what goes while it is looked at is not counted."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def move_job(folder: Path, place: Path) -> None:
    """Give a job's folder another name. Raises ``OutputError`` if another run holds it or it cannot be."""
    try:
        with lock_folder(folder, "this job", note=False):
            if os.name != "nt":  # nobody can take hold of it in between
                folder.rename(place)
        if os.name == "nt":  # a folder with an open file cannot be renamed there
            folder.rename(place)
    except OSError as error:
        raise write_error("The job cannot be removed.", folder, error) from error


def remove_job(folder: Path) -> None:
    """Take a job away. Raises ``OutputError`` if another run holds it or it cannot be removed."""
    gone = folder.with_name(f"{folder.name}.gone")
    move_job(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


UNREADABLE = "A finished segment cannot be read."
Watch = Callable[[int, int], None]
"""Called with how many of how many have been looked at; may raise to stop."""


def unwatched(done: int, total: int) -> None:
    """Nobody looks."""


class Job:
    """An open job. ``records`` has what is sound in each segment's file, or None."""

    def __init__(self, folder: Path, about: JobManifest) -> None:
        self.folder, self.about = folder, about
        self.records: list[SegmentRecord | None] = [None] * about.segments
        self._noted = dict[int, SegmentRecord]()

    def look(self, watch: Watch = unwatched) -> None:
        """Read every segment's file once, and remember those that are sound. Raises ``OutputError`` for one
        that is there and cannot be read: it is not rendered again for that."""
        total = self.about.segments
        for index in range(total):
            path = self.path(index)
            try:
                found = read_segment(path) if path.exists() else None
                if found is None and path.exists() and (noted := read_note(path)):
                    self._noted[index] = noted[0]
            except OSError as error:
                raise write_error(UNREADABLE, path, error) from error
            self.records[index] = found[0] if found and found[0].index == index else None
            watch(index + 1, total)

    def take(self, index: int) -> int:
        """Which take a segment was, as far as its file still tells; 0 where it does not."""
        record = self.records[index] or self._noted.get(index)
        return record.take if record else 0

    @property
    def done(self) -> int:
        """Segments that need not be rendered, if the missing ones come out as before: finished, and their
        files are still there."""
        found = range(self.about.segments)
        return sum(self.finished(index) is not None and self.path(index).exists() for index in found)

    @property
    def state(self) -> str:
        """A hash of all segments as they are: another take of any is another state."""
        return sha256("|".join(record.link if record else "" for record in self.records).encode()).hexdigest()

    def finished(self, index: int) -> SegmentRecord | None:
        """A segment's record, if it is finished and goes on from the one before as that is now."""
        record = self.records[index]
        before = self.records[index - 1] if index else None
        if record is None or (index and before is None):
            return None
        return record if record.follows(before, self.about.root) else None

    def commit(
        self,
        index: int,
        tensors: Mapping[str, Tensor],
        *,
        take: int = 0,
        seconds: float = 0.0,
        measures: Mapping[str, float] | None = None,
        pixels: bool = False,
    ) -> SegmentRecord:
        """Keep a segment for good, in place of what was kept of it before: its ``PIECE`` and ``MOTION``, and
        its ``PIXELS`` too if that is wanted. The one before must be finished.

        Raises ``OutputError`` if it cannot be written; then nothing has changed.
        """
        before, content = self.records[index - 1] if index else None, hash_tensor(tensors[PIXELS])
        previous, frames = before.link if before else self.about.root, len(tensors[PIXELS])
        link = compute_link(previous, index, frames, take, content, tensors[MOTION])
        record = SegmentRecord(
            index=index,
            frames=frames,
            take=take,
            previous=previous,
            link=link,
            stands_for=self._named_by_next(index, link),
            piece=hash_tensor(tensors[PIECE]),
            pixels=content,
            seconds=seconds,
            measures=measures or {},
        )
        if self.about.finished:  # it will be another video
            self.about = replace(self.about, finished=False)
            write_manifest(self.folder, self.about)
        path = self.path(index)
        kept = {name: tensor for name, tensor in tensors.items() if pixels or name != PIXELS}
        try:
            write_atomic(path, serialize_segment(record, self.about.text(), kept))
        except OSError as error:
            needed = sum(tensor.nbytes for tensor in kept.values())
            raise write_error(HEADLINE, path, error, needed) from error
        self.records[index] = record
        return record

    def motion(self, index: int) -> Tensor:
        """Motion frames [1, 3, m, H, W] that a finished segment left."""
        return self._read(index)[MOTION]

    def piece(self, index: int) -> bytes:
        """A finished segment, encoded. Raises ``OutputError`` if its file is not what it was any more."""
        return self._read(index)[PIECE].numpy().tobytes()

    def pixels(self, index: int) -> Tensor | None:
        """A finished segment's frames [F, 3, h, w], if they were kept."""
        return self._read(index, PIXELS).get(PIXELS)

    def finish(self, content: str = "") -> None:
        """Note that the whole video has been made, and the hash of its file."""
        self.about = replace(self.about, finished=True, what={**self.about.what, CONTENT: content})
        write_manifest(self.folder, self.about)

    def path(self, index: int) -> Path:
        """Where a segment is kept."""
        return self.folder / SEGMENTS_DIR / f"{index:06d}.safetensors"

    def _named_by_next(self, index: int, link: str) -> str:
        """The link by which the next segment, rendered after another take of this one, still names it."""
        old = self.records[index] or self._noted.get(index)
        after = self.records[index + 1] if index + 1 < len(self.records) else None
        if old is None or after is None or after.previous == link or not after.follows(old, ""):
            return ""
        return after.previous

    def _read(self, index: int, *more: str) -> dict[str, Tensor]:
        record, path = self.records[index], self.path(index)
        try:
            found = read_segment(path, *more)
        except OSError as error:
            raise write_error(UNREADABLE, path, error) from error
        if record is None or found is None or found[0].link != record.link:
            raise OutputError(
                "A finished segment has been damaged.",
                found=f"{path} is not what was written there",
                expected="files in a job's folder to be left alone",
                fix="run the same again: only this segment is rendered anew",
            )
        return found[1]


@contextmanager
def open_job(jobs: Path, about: JobManifest, watch: Watch = unwatched) -> Generator[Job]:
    """The job of this key in the folder ``jobs``, made if it is new, held while the block lasts.

    Raises ``OutputError`` if another run holds it, if a newer program wrote it, or if it cannot be written.
    """
    folder = job_folder(jobs, about.key)
    with ExitStack() as stack:
        try:
            (folder / SEGMENTS_DIR).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(folder, "this very video"))
            _sweep(folder)
        except OSError as error:
            raise write_error(HEADLINE, folder, error) from error
        check_format(folder)
        known = read_manifest(folder)
        if known is not None and known.key == about.key and known.finished:
            about = replace(about, finished=True, what={**known.what, **about.what})
        write_manifest(folder, about)
        job = Job(folder, about)
        job.look(watch)
        yield job


def inherit(job: Job, parent: Job) -> None:
    """Begin a job with all the segments of another, which is complete and has the same root.

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
        while block := file.read(1 << 20):
            yield block


def _sweep(folder: Path) -> None:
    """Take away what a crash left half written."""
    for path in (*folder.glob("*.unfinished"), *(folder / SEGMENTS_DIR).glob("*.unfinished")):
        path.unlink(missing_ok=True)
