"""All jobs in a folder: list, remove one or stale ones, set one aside to start over."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OutputError
from ..storage.lock import HOLDER_FILENAME
from .job import (
    CONTENT,
    PARENT,
    SEGMENTS_DIR,
    JobManifest,
    folder_size,
    job_folder,
    move_job,
    read_manifest,
    remove_job,
)

DAY_SECONDS = 24 * 3600
KEEP_FINISHED_SECONDS, KEEP_UNFINISHED_SECONDS = 7 * DAY_SECONDS, 30 * DAY_SECONDS
"""How long a job is kept after it was last used."""
ASIDE_SUFFIX = ".old-"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """A job's folder: ``done`` of its segments have files, ``size`` in bytes, last used ``age`` seconds
    ago."""

    folder: Path
    manifest: JobManifest
    done: int
    size: int
    age: float

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def stale(self) -> bool:
        return self.age > (KEEP_FINISHED_SECONDS if self.manifest.finished else KEEP_UNFINISHED_SECONDS)


def list_jobs(jobs: Path) -> list[JobInfo]:
    """The jobs in a folder, the last used first; anything else in it is ignored."""
    found: list[JobInfo] = []
    with suppress(OSError):
        for folder in jobs.iterdir():
            with suppress(OSError):
                info = _inspect(folder)
                found += [info] if info else []
    return sorted(found, key=lambda job: job.age)


def _inspect(folder: Path) -> JobInfo | None:
    manifest = read_manifest(folder) if (folder / SEGMENTS_DIR).is_dir() else None
    if manifest is None or folder.name.endswith(".gone"):
        return None
    files = list((folder / SEGMENTS_DIR).glob("*.safetensors"))
    dated = [path for path in (*files, folder / SEGMENTS_DIR, folder / HOLDER_FILENAME) if path.exists()]
    age = max(0.0, time.time() - max(path.stat().st_mtime for path in dated))
    return JobInfo(folder=folder, manifest=manifest, done=len(files), size=folder_size(folder), age=age)


def find_finished_job(jobs: Path, name: str, content: str = "") -> JobManifest | None:
    """The finished job of a name, or whose video has the hash ``content``; none that was set aside."""
    for job in list_jobs(jobs):
        manifest = job.manifest
        if not manifest.finished or job.folder != job_folder(jobs, manifest.key):
            continue
        if job.name == name or (content and content == manifest.what.get(CONTENT)):
            return manifest
    return None


def clear_job(jobs: Path, name: str) -> JobInfo:
    """Remove one job by its name or the start of it. Raises ``InputError`` if none or several match."""
    matches = [job for job in list_jobs(jobs) if job.name.startswith(name)] if name else []
    exact = [job for job in matches if job.name == name] or matches
    if len(exact) != 1:
        raise InputError(
            "Several jobs start with this name." if exact else "There is no such job.",
            found=f"{name!r} in {jobs}",
            expected="one of " + (", ".join(job.name for job in list_jobs(jobs)) or "no jobs at all"),
            fix="list the jobs and give the name of one",
        )
    remove_job(exact[0].folder)
    return exact[0]


def remove_stale_jobs(jobs: Path, current: str) -> list[JobInfo]:
    """Remove and return stale jobs; keep the one of the key ``current``, locked ones, and those that an
    unfinished job continues."""
    for rest in jobs.glob("*.gone"):
        shutil.rmtree(rest, ignore_errors=True)
    removed: list[JobInfo] = []
    found = list_jobs(jobs)
    needed = {job.manifest.what.get(PARENT) for job in found if not job.manifest.finished and not job.stale}
    for job in found:
        if not job.stale or job.folder == job_folder(jobs, current) or job.name in needed:
            continue
        with suppress(OutputError):  # locked, or not ours to remove: the next run tries again
            remove_job(job.folder)
            removed.append(job)
    return removed


def set_job_aside(jobs: Path, key: str) -> Path | None:
    """Rename a job's folder so that the job starts over; its new place, None if there is no such job.

    Raises ``OutputError`` if another run holds it.
    """
    folder = job_folder(jobs, key)
    if not folder.is_dir():
        return None
    number = 1
    while (target := folder.with_name(f"{folder.name}{ASIDE_SUFFIX}{number}")).exists():
        number += 1
    move_job(folder, target)
    return target
