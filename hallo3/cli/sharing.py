"""Options by which machines share a job."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..errors import InputError
from ..fleet.objects import is_url
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
