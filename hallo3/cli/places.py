"""Where a run writes: its files, and its job, which it may share with other machines."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from ..checkpoints.locate import ModelFolder
from ..config import COMPONENTS
from ..errors import InputError
from ..fleet.objects import is_url
from ..storage.files import cache_path
from .options import AnimateOptions

JOBS_DIR = "hallo3_jobs"
"""Beside a video, on a disk or in a bucket."""
OUTPUTS = {
    "output": (".mp4", ".mov", ".mkv"),
    "chart": (".png",),
    "speech_chart": (".png",),
    "preview": (".png",),
    "save_identity": (".safetensors",),
}


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


def check_outputs(options: AnimateOptions, files: ModelFolder) -> None:
    """Raises ``InputError`` for files that cannot be written, or would replace an input or another output."""
    paths = [options.portrait, options.speech, options.identity, options.script, files.vocals]
    paths += [voice.path for voice in options.voices]
    paths += [options.speakers] if isinstance(options.speakers, Path) else []
    paths += [files.find(component) for component in COMPONENTS]
    paths += [options.output] if options.plan else []  # not written, and need not be named
    taken = [path for path in paths if path is not None]
    for name, suffixes in OUTPUTS.items():
        path: Path | None = getattr(options, name)
        flag = "-o" if name == "output" else f"--{name.replace('_', '-')}"
        if options.plan if name == "output" else path is None:
            continue
        if options.plan and name in ("chart", "save_identity"):
            raise InputError(
                "--plan renders nothing.",
                found=f"--plan and {flag}",
                expected="one of them; --preview and --speech-chart can be drawn with --plan",
                fix="remove one of them",
            )
        found, expected = "", "a folder that exists and that you may write to"
        if path is None or path.suffix.lower() not in suffixes or path.is_dir():
            found = f"no {flag}" if path is None else f"{flag} {path}"
            expected = f"{flag} with a file name that ends in {' or '.join(suffixes)}"
        elif not path.resolve().parent.is_dir():
            found = f"{flag} {path}: there is no folder {path.resolve().parent}"
        elif any(
            path.resolve() == each.resolve() or (path.exists() and each.exists() and path.samefile(each))
            for each in taken
        ):
            found, expected = f"{flag} {path}, which is an input or another output", "a file of its own"
        else:
            taken.append(path)
            try:
                with tempfile.TemporaryFile(dir=path.resolve().parent):
                    continue
            except OSError as error:
                found = f"{path.resolve().parent}: {error.strerror or error}"
        raise InputError(
            "The file cannot be written there.",
            found=found,
            expected=expected,
            fix="choose another name or folder",
        )
