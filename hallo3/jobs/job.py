"""A job: a folder with one file per finished segment, a manifest, and a lock.

A commit is one file written atomically, so that a crash at any point leaves all finished segments and at most
one more to render. The manifest can be made again from any segment; nothing depends on it.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..errors import InputError, OutputError, sanitize
from ..messages import logger
from ..progress import ProgressCallback, no_progress
from ..storage.files import (
    TEMPORARY_SUFFIX,
    ForeignEntryError,
    free_name,
    is_plain_file,
    list_files,
    open_regular,
    parse_json_object,
    read_json_object,
    temporary_path,
    write_atomic,
    write_error,
)
from ..storage.hashing import BLOCK_BYTES, hash_tensor, hash_text
from ..storage.lock import LOCK_FILENAME, lock_folder
from .segment_file import (
    HASH,
    MAX_FRAMES,
    MAX_SEGMENTS,
    MOTION,
    PIECE,
    PIXELS,
    SegmentFormat,
    SegmentRecord,
    compute_link,
    read_note,
    read_segment,
    serialize_segment,
)

MANIFEST_FILENAME, SEGMENTS_DIR = "job.json", "segments"
SPEECH_DIRS = "speech", "speech_2", "speech_3", "speech_4"
NAME = re.compile(r"[0-9a-f]{16}(-[1-9][0-9]{0,5})?(\.old-[1-9][0-9]{0,5})?")
"""Of a job's folder: its key's start, a number where that name was taken, a number if it was set aside."""
_ENDING = r"\.[a-z0-9]{1,8}"
OUTPUTS = re.compile(rf"(so_far|video){_ENDING}", re.IGNORECASE)
_FILES = rf"job\.json|holder\.json|lock|{OUTPUTS.pattern}|sound\.(new|[0-9a-f]{{16}})\.mp4"
_UNFINISHED = rf"({re.escape(TEMPORARY_SUFFIX)})?"
OWN_FILES = {
    "": re.compile(rf"({_FILES}|[0-9a-f]{{16}}(-[0-9]+)?{_ENDING}){_UNFINISHED}", re.IGNORECASE),
    SEGMENTS_DIR: re.compile(rf"[0-9]{{6}}\.safetensors{_UNFINISHED}", re.IGNORECASE),
    **dict.fromkeys(SPEECH_DIRS, re.compile(rf"[a-z_0-9]{{1,20}}\.f32{_UNFINISHED}", re.IGNORECASE)),
}
"""Names of a job's files, by folder. Only these are read, written and deleted."""
KEY_DIGITS, MAX_MANIFEST_BYTES, MAX_TEXTS, MAX_NOTES = 16, 1 << 18, 32, 100
LEFTOVERS = ("pace.json", "contents.json", "ages.json")  # whose unfinished copies stay if a run is killed
CONTENT, PARENT, MADE_WITH, THREADS = "content", "goes on from", "made with", "threads"
MEMORY, METHODS = "memory", "methods"
"""Entries of ``what``, as users' files have them: the finished file's hash, the job that this one continues,
what computed it, with how many threads, under which memory plan, with which attention and kernels."""
WAYS = {MEMORY: "memory is planned", METHODS: "frames are computed"}
FORMAT, MAX_FORMAT = 1, 1000
"""Of the folder; an older version of the package refuses a newer one. No version has a larger number."""
GONE_SUFFIX = ".gone"
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

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for what no job has."""
        if not all(HASH.fullmatch(text) for text in (self.key, self.root, self.headers)):
            raise ValueError("keys of another form")
        if not 0 < self.segments <= MAX_SEGMENTS or not self.segments <= self.frames <= MAX_FRAMES:
            raise ValueError("counts that no video has")
        if PARENT in self.what and not NAME.fullmatch(self.what[PARENT]):
            raise ValueError("it continues no job")

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def parse_manifest(fields: Mapping[str, Any]) -> JobManifest:
    """Raises ``ValueError`` for anything but the fields of a manifest. Its texts are made fit to be shown."""
    texts, numbers = ("key", "root", "headers"), ("segments", "frames", "format")
    info: Any = fields.get("what")
    valid = [isinstance(fields.get(name), str) for name in texts]
    valid += [type(fields.get(name)) is int for name in numbers]
    if not all(valid) or not isinstance(info, dict) or not isinstance(fields.get("finished"), bool):
        raise ValueError("not a job's manifest")
    shown = [(k, v) for k, v in cast("dict[str, Any]", info).items() if isinstance(v, str)][:MAX_TEXTS]
    known = {name: fields[name] for name in (*texts, *numbers, "finished")}
    return JobManifest(**known, what={sanitize(k): sanitize(v) for k, v in shown})


def write_manifest(folder: Path, manifest: JobManifest) -> None:
    """Raises ``OutputError``."""
    try:
        write_atomic(folder / MANIFEST_FILENAME, [manifest.text().encode()])
    except OSError as error:
        raise write_error(HEADLINE, folder / MANIFEST_FILENAME, error) from error


def read_manifest(folder: Path) -> JobManifest | None:
    """A folder's manifest, or else the one in its segments; None for a folder that is no job, or has the
    manifest of another."""
    try:
        files = sorted(path for path in own_files(folder) if path.suffix == ".safetensors")[:MAX_NOTES]
    except OSError:
        return None
    for path in (folder / MANIFEST_FILENAME, *files):
        with suppress(OSError, ValueError):
            if path in files:
                note = read_note(path)
                fields = parse_json_object(note[1] if note else "")
            else:
                fields = _read_manifest(folder)
            manifest = parse_manifest(fields)
            if manifest.key[:KEY_DIGITS] == folder.name[:KEY_DIGITS]:
                return manifest
    return None


def _read_manifest(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / MANIFEST_FILENAME, MAX_MANIFEST_BYTES, follow_links=False)


def _check_format(folder: Path) -> None:
    """Raises ``OutputError`` for a folder that a newer version of the package wrote."""
    version: object = None
    with suppress(OSError, ValueError):
        version = _read_manifest(folder).get("format")
    if isinstance(version, int) and FORMAT < version <= MAX_FORMAT:
        raise OutputError(
            "The job was started by a newer version of Hallo3.",
            found=f"{folder} of format {version}",
            expected=f"format {FORMAT} or older",
            fix="update Hallo3, or start over in another folder",
        )


def own_files(folder: Path) -> dict[Path, os.stat_result]:
    """A job's files. Raises ``OSError``, ``ForeignEntryError`` for a folder that is not a job's."""
    files = list_files(folder, OWN_FILES, OUTPUTS)
    for path, status in files.items():  # the lock is the only file that is opened to write where it stands
        if path.name.lower() == LOCK_FILENAME and not is_plain_file(status, own=True):
            raise ForeignEntryError(errno.EMLINK, "a file with another name elsewhere", str(path))
    return files


def job_folder(jobs: Path, key: str, foreign: Callable[[ForeignEntryError], object] = no_progress) -> Path:
    """A job's folder: of ``<key>``, ``<key>-2``, ``<key>-3`` ... the first that is a job's, else the first
    that does not exist. ``foreign`` gets what is wrong with those that are passed over."""
    name, numbers = key[:KEY_DIGITS], {1}
    with suppress(OSError):
        found = (re.fullmatch(rf"{name}-([2-9]|[1-9][0-9]{{1,5}})", path.name) for path in jobs.iterdir())
        numbers |= {int(match[1]) for match in found if match}
    places = (
        jobs / (f"{name}-{number}" if number > 1 else name) for number in chain(sorted(numbers), count(1))
    )
    for folder in islice(places, len(numbers)):
        try:
            own_files(folder)
        except ForeignEntryError as error:
            foreign(error)
        except FileNotFoundError:
            continue
        except OSError:  # it may be intact: what opens it says why it cannot be read
            return folder
        else:
            return folder
    return next(folder for folder in places if not os.path.lexists(folder))


def folder_size(folder: Path, *names: str) -> int:
    """Bytes of a job's files, in all or in these of its folders; 0 if it cannot be read."""
    with suppress(OSError):
        files, places = own_files(folder).items(), [folder / name for name in names or OWN_FILES]
        return sum(status.st_size for path, status in files if path.parent in places)
    return 0


def remove_files(folder: Path, *names: str) -> None:
    """Delete a job's files, of all or of these of its folders, the manifest last; folders that are empty
    then go too. Other files stay. Raises ``OSError``."""
    places = [folder / name for name in names or OWN_FILES]
    paths = [path for path in own_files(folder) if path.parent in places]
    for path in sorted(paths, key=lambda path: (path.parent == folder, path.name == MANIFEST_FILENAME)):
        path.unlink(missing_ok=True)
    for place in sorted(places, reverse=True):  # the folder itself last
        with suppress(OSError):
            place.rmdir()


def move_job(folder: Path, target: Path) -> None:
    """Raises ``OutputError`` if another run holds the folder or it cannot be renamed."""
    try:
        own_files(folder)
        with lock_folder(folder, "this job", note=False):
            if os.name != "nt":  # while it is locked
                folder.rename(target)
        if os.name == "nt":  # a folder with an open file cannot be renamed on Windows
            folder.rename(target)
    except OSError as error:
        raise write_error("The job cannot be removed.", folder, error) from error


def remove_job(folder: Path) -> None:
    """Raises ``OutputError`` if another run holds the folder or it cannot be removed."""
    trash = free_name(folder, GONE_SUFFIX)
    move_job(folder, trash)
    with suppress(OSError):  # the next run tries again
        remove_files(trash)


def incomplete_error(found: str) -> InputError:
    """The error for a video to continue of which segments are missing."""
    return InputError(
        "The video to continue is not complete any more.",
        found=found,
        expected="the job of a finished video",
        fix="render that video again first",
    )


class Job:
    """An open job. ``records`` has a record for each segment whose file is intact, else None."""

    def __init__(self, folder: Path, manifest: JobManifest, form: SegmentFormat) -> None:
        self.folder, self.manifest, self.form = folder, manifest, form
        self.records: list[SegmentRecord | None] = [None] * manifest.segments
        self._notes = dict[int, SegmentRecord]()  # of damaged files whose note is still readable

    def check_segments(self, progress: ProgressCallback = no_progress) -> None:
        """Read every segment's file and remember the intact ones.

        Raises ``OutputError`` for a file that exists and cannot be read: it may be intact all the same.
        """
        for index in range(self.manifest.segments):
            path = self.path(index)
            try:
                segment = read_segment(path, self.form)
                if segment is None and (note := read_note(path)):
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
            segment = read_segment(path, self.form, *more)
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
def open_job(
    jobs: Path, manifest: JobManifest, form: SegmentFormat, progress: ProgressCallback = no_progress
) -> Generator[Job]:
    """The job of this key in the folder ``jobs``, created if it is new, locked while the block lasts. A
    folder of its name that is not a job's is left as it is, with a message, and the next name is used.

    Raises ``OutputError`` if another run holds it, a newer version wrote it, or it cannot be written.
    """
    passed = list[ForeignEntryError]()
    folder = job_folder(jobs, manifest.key, passed.append)
    for error in passed:
        found = f"{sanitize(str(error.filename))}: {error.strerror}"
        logger.warning(f"{found}. Its job is left as it is; this video is kept in {folder.name}")
    with ExitStack() as stack:
        try:
            (folder / SEGMENTS_DIR).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(folder, "this video"))
            for path in own_files(folder):
                if path.suffix == TEMPORARY_SUFFIX:  # half written when a run crashed
                    path.unlink(missing_ok=True)
            for name in LEFTOVERS:
                with suppress(OSError):
                    temporary_path(jobs / name).unlink()
        except OSError as error:
            raise write_error(HEADLINE, folder, error) from error
        _check_format(folder)
        known = read_manifest(folder)
        if known is not None and known.key == manifest.key and known.finished:
            content = {CONTENT: known.what[CONTENT]} if CONTENT in known.what else {}
            manifest = replace(manifest, finished=True, what={**content, **manifest.what})
        write_manifest(folder, manifest)
        job = Job(folder, manifest, form)
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
    with open_regular(path, follow_links=False) as file:
        while block := file.read(BLOCK_BYTES):
            yield block
