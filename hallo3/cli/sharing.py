"""Where a run keeps its job, and shares it with other machines."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..fleet.objects import is_url
from ..storage.files import cache_path
from .options import AnimateOptions

JOBS_DIR = "hallo3_jobs"
"""Beside a video, on a disk or in a bucket."""


def shared_place(options: AnimateOptions) -> str | None:
    """Where the job is shared with other machines, if it is. Raises ``InputError``."""
    upload, output = options.upload, options.output
    if upload is None and options.share is None:
        return None
    if options.fresh:
        raise InputError(
            "A shared job cannot start over.",
            found="--fresh and " + ("--share" if options.share else "--upload"),
            expected="one of them: other machines have finished segments of the job, too",
            fix="remove --fresh, or share the job in another place",
        )
    suffix = PurePosixPath(upload or "").suffix.lower()
    if upload is not None and (
        not is_url(upload) or (output is not None and suffix != output.suffix.lower())
    ):
        raise InputError(
            "The video cannot be uploaded there.",
            found=f"--upload {upload}",
            expected=f"a URL such as s3://bucket/videos/name{output.suffix if output else '.mp4'}",
            fix="give the URL of a file, with the ending of -o",
        )
    return options.share or f"{(upload or '').rpartition('/')[0]}/{JOBS_DIR}"


def jobs_folder(options: AnimateOptions) -> Path:
    if options.jobs_folder is not None:
        return options.jobs_folder
    if shared_place(options) is not None:
        return cache_path("jobs") or Path(tempfile.gettempdir()) / JOBS_DIR
    return (options.output.resolve().parent if options.output is not None else Path.cwd()) / JOBS_DIR
