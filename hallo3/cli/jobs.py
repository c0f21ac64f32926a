"""What lies finished or half finished in a folder of jobs: listed, found again, taken away."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from ..errors import InputError, OutputError
from ..jobs.estimate import duration, size
from ..jobs.job import CONTENT, JobManifest, job_folder
from ..jobs.store import KEEP_FINISHED, KEEP_UNFINISHED, JobInfo, clear_job, list_jobs
from ..storage.hashing import hash_file
from .request import JOBS


def run_jobs(options: Namespace) -> None:
    """``hallo3 jobs``: list, or clear by name."""
    folder: Path = options.folder.resolve()
    jobs = folder if folder.name == JOBS or any(list_jobs(folder)) else folder / JOBS
    if not options.clear:
        print_jobs(jobs)
        return
    names = [job.name for job in list_jobs(jobs)] if "all" in options.clear else options.clear
    for name in names:
        try:
            gone = clear_job(jobs, name)
        except OutputError as error:
            print(f"{name} stays.\n{error}", file=sys.stderr)
        else:
            print(f"cleared {gone.name}: {size(gone.size)}")


def print_jobs(jobs: Path) -> None:
    """A line for every job."""
    found = list(list_jobs(jobs))
    if not found:
        print(f"no jobs in {jobs}")
        return
    print(f"jobs in {jobs}")
    for job in found:
        print(line(job))
    finished, unfinished = duration(KEEP_FINISHED), duration(KEEP_UNFINISHED)
    print(
        f"finished ones are cleared {finished} after they were last used, unfinished ones after {unfinished}"
    )


def line(job: JobInfo) -> str:
    """A job for people."""
    state = "finished" if job.about.finished else f"{job.done} of {job.about.segments} segments"
    what = job.about.what
    names = " + ".join(what[name] for name in ("portrait", "speech", "model") if name in what)
    aside = ", put aside" if ".old-" in job.name else ""
    return (
        f"  {job.name}  {state:<22}{size(job.size):>10}  {duration(job.used)} ago  "
        f"{what.get('video', '')}  ({names}{aside})"
    )


def find_parent(jobs: Path, name: str) -> JobManifest:
    """The finished job of a name, or that made the file at a path. Raises ``InputError``."""
    path = Path(name)
    content = hash_file(path) if path.is_file() else ""
    found = [job for job in list_jobs(jobs) if job.folder == job_folder(jobs, job.about.key)]
    for job in found:
        if job.about.finished and (job.name == name or content == job.about.what.get(CONTENT, "?")):
            return job.about
    raise InputError(
        "There is no video to go on from.",
        found=f"{name!r}, which is {'of' if content else 'no file, and'} no finished job in {jobs}",
        expected="a video as hallo3 animate made it, or its job's name, while the job is still kept",
        fix="render it first; the option --jobs lists what is there",
    )
