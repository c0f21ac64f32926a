"""``hallo3 download``: the only code that uses the network. huggingface_hub downloads and resumes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..checkpoints.locate import EXTRA_FILES, PAGE, RELEASE, REPOSITORY, converted_size
from ..config import COMPONENTS
from ..errors import CheckpointError, DependencyError, OutputError
from ..storage.files import free_disk, read_json_or_empty
from ..storage.hashing import hash_file
from ..units import format_bytes
from .network_options import DownloadOptions
from .progress import show_bytes

NOTES_FILENAME = "hallo3-download.json"  # files and revision, with which a later call resumes


def run_download(options: DownloadOptions) -> None:
    """Download the original's files into a folder, resuming an earlier call, and check them. Raises
    ``OutputError`` when they cannot be downloaded, ``CheckpointError`` for one with other content."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise DependencyError(
            "Downloading needs a library that is not installed.",
            found=str(error),
            fix=f"pip install huggingface_hub, or download the files from {PAGE} by hand",
        ) from error
    hub: Any = huggingface_hub
    folder = options.folder
    notes = read_json_or_empty(folder / NOTES_FILENAME)
    known: dict[str, Any] = notes["files"] if isinstance(notes.get("files"), dict) else {}
    files = {name: RELEASE[name].files for name in COMPONENTS} | EXTRA_FILES
    patterns = sorted({pattern for name in options.part or (*COMPONENTS, "faces") for pattern in files[name]})
    revision = options.revision or notes.get("revision") or "main"
    commit, published = _list_published(hub, str(revision), patterns)
    total = sum(size for size, _ in published.values())
    here = sum(min(_size(folder / name), size) for name, (size, _) in published.items())
    here += sum(map(_size, folder.glob(".cache/huggingface/download/**/*.incomplete")))
    missing, free = max(0, total - here), free_disk(folder)
    sizes = f"{format_bytes(total)}; {format_bytes(missing)} to download, {format_bytes(free)} free"
    print(f"{REPOSITORY} at {commit[:12]}: {len(published)} files, {sizes}")
    components = options.part or COMPONENTS
    written = converted_size(name for name in components if name in RELEASE)
    print(f"converting them writes {format_bytes(written)} more; then the download may be deleted")
    if options.dry_run:
        for name, (size, _) in published.items():
            print(f"  {format_bytes(size):>9}  {name}")
        return
    if missing > free:
        raise OutputError(
            "The download does not fit on the disk.",
            found=f"{format_bytes(free)} free in {folder}",
            expected=f"{format_bytes(missing)}, and {format_bytes(written)} for converting",
            fix="free some space, or choose a folder on another disk",
        )
    try:
        hub.snapshot_download(
            REPOSITORY, revision=commit, allow_patterns=list(published), local_dir=str(folder)
        )
    except Exception as error:  # the hub's errors, and those of its network libraries
        raise _download_error(error) from error
    for name, (size, digest) in published.items():
        path = folder / name
        actual_size = _size(path)
        if actual_size != size:
            raise _content_error(path, f"{actual_size:,} bytes", f"{size:,} bytes")
        if digest and known.get(name) != {"size": size, "sha256": digest}:  # not checked before
            with show_bytes(f"checking {path.name}", size) as progress:
                actual = hash_file(path, progress)
            if actual != digest:
                raise _content_error(path, f"SHA-256 {actual}", digest)
    entries = {name: {"size": size, "sha256": digest} for name, (size, digest) in published.items()}
    content = {"repository": REPOSITORY, "revision": commit, "files": {**known, **entries}}
    (folder / NOTES_FILENAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: complete. Next: python -m hallo3 convert {folder} DST")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _list_published(
    hub: Any, revision: str, patterns: Iterable[str]
) -> tuple[str, dict[str, tuple[int, str]]]:
    """The commit, and each matching file's size and SHA-256 (empty where the page does not know it)."""
    try:
        info = hub.HfApi().model_info(REPOSITORY, revision=revision, files_metadata=True)
    except Exception as error:
        raise _download_error(error) from error
    files: dict[str, tuple[int, str]] = {}
    for file in info.siblings or ():
        if any(fnmatchcase(file.rfilename, pattern) for pattern in patterns):
            files[file.rfilename] = int(file.size or 0), str(getattr(file.lfs, "sha256", "") or "")
    if not files:
        raise CheckpointError(
            "The files are not published any more.",
            found=f"none of {', '.join(patterns)} in {REPOSITORY} at {revision}",
            expected="the files of the original's release",
            fix=f"look at {PAGE}, and choose another --revision",
        )
    return str(info.sha), files


def _content_error(path: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "A downloaded file is not the published one.",
        found=f"{path}: {found}",
        expected=expected,
        fix="delete it and run the same command again",
    )


def _download_error(error: Exception) -> OutputError:
    return OutputError(
        "The download did not finish.",
        found=(str(error).splitlines() or ["no reason given"])[0][:300],
        expected="a connection to huggingface.co and free disk space",
        fix="run the same command again: it resumes where it stopped",
    )
