"""A job that machines work on in turn: each in its own folder, uploading every segment that it finishes and
resuming from those of the others. Their files are a stranger's: what opens a job checks them."""

from __future__ import annotations

import platform
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex

from ..errors import BusyError, Hallo3Error
from ..jobs.job import Job, JobManifest, job_folder, parse_manifest, write_manifest
from ..jobs.segment_file import SegmentFormat, read_note
from ..storage.files import (
    open_regular,
    parse_json_object,
    publish_file,
    read_json_or_empty,
    write_atomic,
    write_error,
)
from ..storage.hashing import hash_bytes, hash_file
from ..storage.lock import lock_folder
from .claims import Claim, Committed
from .objects import RetriedObjects, open_objects

OWNER_FILENAME = "owner.json"
HEADLINE = "A shared segment cannot be saved."


@cache
def _open_checked(place: str) -> RetriedObjects:
    objects = open_objects(place)
    objects.check_exclusive()
    return objects


@cache
def open_claim(place: str, key: str, jobs: Path, machine: str) -> Claim:
    """The view of a job under ``place``, a URL or a folder, for a process that works in the folder ``jobs``;
    the same object in each call, since it remembers since when another owner has been silent.

    Raises ``InputError`` and ``DependencyError`` for a place that cannot be shared, ``OutputError``.
    """
    return Claim(_open_checked(place), key, _read_owner(jobs), machine)


def _read_owner(jobs: Path) -> str:
    """This computer and folder, in which a job's lock lets one process work on it."""
    path = jobs / OWNER_FILENAME
    try:
        with suppress(FileExistsError):
            publish_file(path, [f'{{"name": "{token_hex(8)}"}}'.encode()], new=True)
    except OSError as error:
        raise write_error("The folder for jobs cannot be used.", path, error) from error
    return f"{platform.node()} {read_json_or_empty(path).get('name')}"


class SharedJob:
    """A claimed job. ``publish`` and ``finish`` raise ``BusyError`` if another machine has taken it over."""

    def __init__(self, claim: Claim) -> None:
        self._claim, self._fetched = claim, set[int]()
        self._over = threading.Event()

    def fetch(self, job: Job) -> None:
        """Download accepted segments that a job's folder does not have, and the newest manifest, which names
        all machines so far. Raises ``OutputError``."""
        state = self._claim.state
        for index, known in state.segments.items():
            path = job.path(index)
            with suppress(OSError):
                if hash_file(path, follow_links=False) == known.hash:
                    self._fetched.add(index)
                    continue
            if index >= job.manifest.segments:
                continue
            data = self._claim.fetch(index, job.form.max_file_bytes)
            if data is None:
                continue  # it is rendered again
            try:
                path.parent.mkdir(exist_ok=True)
                write_atomic(path, [data])
                note = read_note(path) if index == state.last else None
            except OSError as error:
                raise write_error(HEADLINE, path, error, len(data)) from error
            self._fetched.add(index)
            with suppress(ValueError):
                newest = parse_manifest(parse_json_object(note[1] if note else ""))
                if newest.key == job.manifest.key:
                    write_manifest(job.folder, newest)

    def publish_all(self, job: Job) -> None:
        """Upload what this machine had finished before."""
        for index in range(job.manifest.segments):
            if job.finished(index) is not None and index not in self._fetched:
                self.publish(job, index)

    def publish(self, job: Job, index: int) -> None:
        """Upload a finished segment; when this returns every machine accepts it. Raises ``OutputError``."""
        path = job.path(index)
        try:
            with open_regular(path, follow_links=False) as file:
                data = file.read()
        except OSError as error:
            raise write_error("A finished segment cannot be read.", path, error) from error
        known = self._claim.state.segments.get(index)
        if known is None or known.hash != hash_bytes(data):
            self._claim.commit(index, data)

    def finish(self, video: Path, upload: str | None) -> None:
        """Upload the finished video, if it goes to a URL, and say that it is done. Raises ``OutputError``."""
        self._claim.check()
        if upload is not None:
            objects, name = split_url(upload)
            objects.upload(video, name)
        self._claim.finish(hash_file(video), video.stat().st_size)

    @contextmanager
    def keep_alive(self) -> Generator[None]:
        """Show signs of life while the block lasts, then let others have the job."""
        thread = threading.Thread(target=self._beat, daemon=True, name="hallo3 claim")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            with suppress(Hallo3Error):  # then its lease ends by time
                self._claim.release()

    def _beat(self) -> None:
        while not self._over.wait(self._claim.terms.beat):
            try:
                self._claim.renew()
            except BusyError:
                return  # the next commit says so
            except Hallo3Error:
                continue  # others may take over meanwhile


@contextmanager
def share_job(
    claim: Claim, jobs: Path, manifest: JobManifest, form: SegmentFormat, gone: Committed | None
) -> Generator[SharedJob | None]:
    """Claim a job and download what others have finished of it, before it is opened in ``jobs``; None if its
    video is finished and not ``gone``.

    Raises ``BusyError`` while another machine works on it, or another process here; ``OutputError``.
    """
    folder, shared = job_folder(jobs, manifest.key), SharedJob(claim)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder, "this video"):
            if is_claimed := claim.acquire(gone):
                shared.fetch(Job(folder, manifest, form))
    except OSError as error:
        raise write_error(HEADLINE, folder, error) from error
    if is_claimed:
        with shared.keep_alive():
            yield shared
    else:
        yield None


def split_url(url: str) -> tuple[RetriedObjects, str]:
    """A file's folder and name. Raises as ``open_objects`` does."""
    folder, _, name = url.rpartition("/")
    return open_objects(folder), name


def url_exists(url: str) -> bool:
    objects, name = split_url(url)
    return objects.read(name, 1) is not None
