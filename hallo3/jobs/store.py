"""All jobs in a folder: list, remove one or stale ones, set one aside to start over."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import InputError, OutputError
from ..storage.files import free_name, read_json_or_empty, write_json
from ..storage.lock import HOLDER_FILENAME
from .job import (
    CONTENT,
    GONE_SUFFIX,
    NAME,
    PARENT,
    SEGMENTS_DIR,
    JobManifest,
    incomplete_error,
    job_folder,
    move_job,
    own_files,
    read_manifest,
    remove_files,
    remove_job,
)

DAY_SECONDS = 24 * 3600
KEEP_FINISHED_DAYS, KEEP_UNFINISHED_DAYS = 7, 30
"""How long a job is kept after it was last used, in days on which a run was here: a wrong clock adds one."""
AGES_FILENAME, MAX_DAYS = "ages.json", 1_000_000
ASIDE_SUFFIX = ".old-"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """A job's folder: ``done`` of its segments have files, ``size`` in bytes, last ``used`` at a time in
    ns."""

    folder: Path
    manifest: JobManifest
    done: int
    size: int
    used: int

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def age(self) -> float:
        """Seconds since its last use, if the clock was and is right."""
        return max(0.0, time.time() - self.used / 1e9)


def list_jobs(jobs: Path) -> list[JobInfo]:
    """The jobs in a folder, the last used first; anything else in it is ignored."""
    found: list[JobInfo] = []
    with suppress(OSError):
        for folder in jobs.iterdir():
            with suppress(OSError):
                info = _inspect(folder)
                found += [info] if info else []
    return sorted(found, key=lambda job: -job.used)


def _inspect(folder: Path) -> JobInfo | None:
    manifest = read_manifest(folder) if NAME.fullmatch(folder.name) else None
    if manifest is None:
        return None
    files, segments = own_files(folder), folder / SEGMENTS_DIR
    done = [path for path in files if path.parent == segments and path.suffix == ".safetensors"]
    dated = [files[path] for path in (*done, folder / HOLDER_FILENAME) if path in files]
    used = max(status.st_mtime_ns for status in (*dated, segments.lstat()))
    size = sum(status.st_size for status in files.values())
    return JobInfo(folder=folder, manifest=manifest, done=len(done), size=size, used=used)


def find_finished_job(jobs: Path, name: str, content: str = "") -> JobManifest | None:
    """The finished job of a name, or whose video has the hash ``content``; none that was set aside. Raises
    ``InputError`` if there is only one with missing segments."""
    incomplete = ""
    for job in list_jobs(jobs):
        manifest = job.manifest
        if not manifest.finished or not (
            job.name == name or (content and content == manifest.what.get(CONTENT))
        ):
            continue
        if job.folder == job_folder(jobs, manifest.key):
            if job.done >= manifest.segments:
                return manifest
            incomplete = f"{job.done} of its {manifest.segments} segments"
    if incomplete:
        raise incomplete_error(incomplete)
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
    for rest in jobs.glob(f"*{GONE_SUFFIX}*"):  # of a run that was stopped meanwhile
        name, _, number = rest.name.rpartition(GONE_SUFFIX)
        with suppress(OSError):
            is_ours = NAME.fullmatch(name) and (number.isdecimal() or not number)
            if is_ours and (read_manifest(rest) is not None or not own_files(rest)):
                remove_files(rest)
    removed: list[JobInfo] = []
    found = list_jobs(jobs)
    unused = _count_unused_days(jobs, found)
    keep = {job.name: KEEP_FINISHED_DAYS if job.manifest.finished else KEEP_UNFINISHED_DAYS for job in found}
    stale = [job for job in found if unused[job.name] >= keep[job.name]]
    needed = {
        job.manifest.what.get(PARENT) for job in found if not job.manifest.finished and job not in stale
    }
    for job in stale:
        if job.folder == job_folder(jobs, current) or job.name in needed:
            continue
        with suppress(OutputError):  # locked, or not ours to remove: the next run tries again
            remove_job(job.folder)
            removed.append(job)
    return removed


def _count_unused_days(jobs: Path, found: list[JobInfo]) -> dict[str, int]:
    """On how many days a run was here since each job was last used.

    Times of files are compared for equality only, and a day counts once, however far the clock moved: one
    that is wrong cannot make a job old.
    """
    known, today = read_json_or_empty(jobs / AGES_FILENAME), int(time.time() // DAY_SECONDS)
    days, last, before = known.get("days"), known.get("last"), known.get("jobs")
    if (
        type(days) is not int
        or type(last) is not int
        or not 0 <= days < MAX_DAYS
        or not isinstance(before, dict)
    ):
        days, last, before = 0, today, dict[str, Any]()
    days += today > last
    since = dict[str, list[int]]()
    for job in found:
        entry: Any = cast("dict[str, Any]", before).get(job.name)
        try:
            is_same = entry[0] == job.used and 0 <= entry[1] <= days
        except (TypeError, LookupError):
            is_same = False
        since[job.name] = [job.used, int(entry[1]) if is_same else days]
    with suppress(OSError):
        write_json(jobs / AGES_FILENAME, {"days": days, "last": today, "jobs": since})
    return {name: days - day for name, (_, day) in since.items()}


def set_job_aside(jobs: Path, key: str) -> Path | None:
    """Rename a job's folder so that the job starts over; its new place, None if there is no such job.

    Raises ``OutputError`` if another run holds it.
    """
    folder = job_folder(jobs, key)
    if not folder.is_dir():
        return None
    target = free_name(folder, ASIDE_SUFFIX)
    move_job(folder, target)
    return target
