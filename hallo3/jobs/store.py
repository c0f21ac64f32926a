"""All jobs of a folder: listed, cleared by hand or by rule, put aside to start again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OutputError
from ..storage.lock import HOLDER
from .job import (
    PARENT,
    SEGMENTS_DIR,
    JobManifest,
    folder_size,
    job_folder,
    move_job,
    read_manifest,
    remove_job,
)

DAY = 24 * 3600
KEEP_FINISHED, KEEP_UNFINISHED = 7 * DAY, 30 * DAY
"""Seconds for which a job is kept after it was last worked on."""
ASIDE = ".old-"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """A job as it lies there: ``done`` of its segments have files, ``size`` bytes, ``used`` seconds ago."""

    folder: Path
    about: JobManifest
    done: int
    size: int
    used: float

    @property
    def name(self) -> str:
        """By which it is cleared."""
        return self.folder.name

    @property
    def outdated(self) -> bool:
        """Whether the rule would clear it."""
        return self.used > (KEEP_FINISHED if self.about.finished else KEEP_UNFINISHED)


def list_jobs(jobs: Path) -> Iterator[JobInfo]:
    """The jobs in a folder, the last used first. Other things that lie there, or go meanwhile, are not looked
    at."""
    found: list[JobInfo] = []
    with suppress(OSError):
        for folder in jobs.iterdir():
            with suppress(OSError):
                listed = _listed(folder)
                found += [listed] if listed else []
    return iter(sorted(found, key=lambda job: job.used))


def _listed(folder: Path) -> JobInfo | None:
    about = read_manifest(folder) if (folder / SEGMENTS_DIR).is_dir() else None
    if about is None or folder.name.endswith(".gone"):
        return None
    files = list((folder / SEGMENTS_DIR).glob("*.safetensors"))
    marks = [file for file in (*files, folder / SEGMENTS_DIR, folder / HOLDER) if file.exists()]
    age = max(0.0, time.time() - max(file.stat().st_mtime for file in marks))
    return JobInfo(folder=folder, about=about, done=len(files), size=folder_size(folder), used=age)


def clear_job(jobs: Path, name: str) -> JobInfo:
    """Take one job away, by its name or the beginning of it. Raises ``InputError`` if that is none's or
    several's."""
    found = [job for job in list_jobs(jobs) if job.name.startswith(name)] if name else []
    exact = [job for job in found if job.name == name] or found
    if len(exact) != 1:
        raise InputError(
            "There is no such job." if not exact else "Several jobs begin so.",
            found=f"{name!r} in {jobs}",
            expected="one of " + (", ".join(job.name for job in list_jobs(jobs)) or "no jobs at all"),
            fix="list the jobs and give the name of one",
        )
    remove_job(exact[0].folder)
    return exact[0]


def remove_stale_jobs(jobs: Path, but: str) -> list[JobInfo]:
    """Take away what nobody has worked on for long; what went. Spared are the job of the key ``but``, those
    that are held, and those that an unfinished one goes on from."""
    for left in jobs.glob("*.gone"):
        shutil.rmtree(left, ignore_errors=True)
    gone: list[JobInfo] = []
    found = list(list_jobs(jobs))
    needed = {job.about.what.get(PARENT) for job in found if not job.about.finished and not job.outdated}
    for job in found:
        if not job.outdated or job.folder == job_folder(jobs, but) or job.name in needed:
            continue
        with suppress(OutputError):  # held, or not ours to remove: the next run tries again
            remove_job(job.folder)
            gone.append(job)
    return gone


def set_job_aside(jobs: Path, key: str) -> Path | None:
    """Give a job's folder another name, so that it starts again; where it is now. None if there is none.

    Raises ``OutputError`` if another run holds it.
    """
    folder = job_folder(jobs, key)
    if not folder.is_dir():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}{ASIDE}{number}")).exists():
        number += 1
    move_job(folder, aside)
    return aside
