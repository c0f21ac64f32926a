"""What lies finished or half finished in a folder of jobs: listed, found again, taken away."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..cost import duration, size
from ..errors import InputError
from ..journal.about import About
from ..journal.jobs import KEEP_FINISHED, KEEP_UNFINISHED, Listed, clear, list_jobs
from .request import JOBS


def run_jobs(options: Namespace) -> None:
    """``hallo3 jobs``: list, or clear by name."""
    jobs = options.folder if options.folder.name == JOBS else options.folder / JOBS
    if not options.clear:
        print_jobs(jobs)
        return
    names = [job.name for job in list_jobs(jobs)] if "all" in options.clear else options.clear
    for name in names:
        gone = clear(jobs, name)
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


def line(job: Listed) -> str:
    """A job for people."""
    state = "finished" if job.about.finished else f"{job.done} of {job.about.segments} segments"
    what = job.about.what
    names = " + ".join(what[name] for name in ("portrait", "speech", "model") if name in what)
    aside = ", put aside" if ".old-" in job.name else ""
    return (
        f"  {job.name}  {state:<22}{size(job.size):>10}  {duration(job.used)} ago  "
        f"{what.get('video', '')}  ({names}{aside})"
    )


def find_parent(jobs: Path, name: str) -> About:
    """The finished job of a name, or that made the video of a path. Raises ``InputError``."""
    found = [
        job
        for job in list_jobs(jobs)
        if job.name == name or (name and job.about.what.get("video") == Path(name).name)
    ]
    ready = [job for job in found if job.about.finished]
    if not ready:
        raise InputError(
            "There is no video to go on from.",
            found=f"{name!r}" + (", not finished" if found else f", of no job in {jobs}"),
            expected="a video that is finished and whose job is still kept",
            do="render it first; the option --jobs lists what is there",
        )
    return ready[0].about
