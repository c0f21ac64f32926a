"""``hallo3 jobs``: list kept jobs and delete them."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import InputError, OutputError
from ..jobs.job import JobManifest
from ..jobs.store import (
    ASIDE_SUFFIX,
    KEEP_FINISHED_DAYS,
    KEEP_UNFINISHED_DAYS,
    clear_job,
    find_finished_job,
    list_jobs,
)
from ..storage.hashing import hash_file
from ..units import format_bytes, format_duration
from .options import JobsOptions
from .places import JOBS_DIR


def run_jobs(options: JobsOptions) -> None:
    folder = options.folder.resolve()
    jobs = folder if folder.name == JOBS_DIR or list_jobs(folder) else folder / JOBS_DIR
    if not options.clear:
        print_jobs(jobs)
        return
    names = [job.name for job in list_jobs(jobs)] if "all" in options.clear else options.clear
    for name in names:
        try:
            job = clear_job(jobs, name)
        except OutputError as error:
            print(f"{name} was not deleted.\n{error}", file=sys.stderr)
        else:
            print(f"deleted {job.name}: {format_bytes(job.size)}")


def print_jobs(jobs: Path) -> None:
    infos = list_jobs(jobs)
    if not infos:
        print(f"no jobs in {jobs}")
        return
    print(f"jobs in {jobs}")
    for job in infos:
        manifest, info = job.manifest, job.manifest.what
        state = "finished" if manifest.finished else f"{job.done} of {manifest.segments} segments"
        names = " + ".join(info[name] for name in ("portrait", "speech", "model") if name in info)
        aside = ", set aside" if ASIDE_SUFFIX in job.name else ""
        size, age = format_bytes(job.size), format_duration(job.age)
        video = info.get("video", "")
        print(f"  {job.name}  {state:<22}{size:>10}  {age} ago  {video}  ({names}{aside})")
    print(
        f"deleted automatically after {KEEP_FINISHED_DAYS} days with runs that do not use them, "
        f"unfinished ones after {KEEP_UNFINISHED_DAYS}"
    )


def find_parent(jobs: Path, name: str) -> JobManifest:
    """The finished job of a name, or the one that made the file at a path. Raises ``InputError``."""
    path = Path(name)
    content = hash_file(path) if path.is_file() else ""
    if (parent := find_finished_job(jobs, name, content)) is not None:
        return parent
    raise InputError(
        "There is no video to continue.",
        found=f"{name!r}, which is {'of' if content else 'no file, and'} no finished job in {jobs}",
        expected="a video as hallo3 animate made it, or its job's name, while the job is kept",
        fix="render it first; --jobs lists kept jobs",
    )
