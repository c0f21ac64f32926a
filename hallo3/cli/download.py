"""``hallo3 download``: the only command, and the only code, that uses the network."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from ..checkpoints.inspect import human
from ..checkpoints.locate import PAGE, RELEASE, REPOSITORY
from ..config import COMPONENTS
from ..errors import CheckpointError, DependencyError, OutputError

NOTES = "hallo3-download.json"
"""What was downloaded, from which revision: a later call goes on with the same one."""
BLOCK = 16 << 20


def run_download(options: Namespace) -> None:
    """Fetch the original's files into a folder, going on where an earlier call stopped, and check them.

    Raises ``OutputError`` when they cannot be fetched, ``CheckpointError`` for one that is another.
    """
    hub = _hub()
    folder: Path = options.folder
    notes = _notes(folder)
    patterns = sorted({pattern for part in options.part or COMPONENTS for pattern in RELEASE[part].files})
    revision, published = _published(hub, options.revision or notes.get("revision") or "main", patterns)
    total = sum(size for size, _ in published.values())
    print(f"{REPOSITORY} at {revision[:12]}: {len(published)} files, {human(total)}")
    if options.dry_run:
        for name, (size, _) in published.items():
            print(f"  {human(size):>9}  {name}")
        return
    try:
        hub.snapshot_download(
            REPOSITORY, revision=revision, allow_patterns=list(published), local_dir=str(folder)
        )
    except Exception as error:  # the hub's errors, and those of whatever it reaches the network with
        raise _failed(error) from error
    _check(folder, published, notes)
    noted = {name: {"size": size, "sha256": digest} for name, (size, digest) in published.items()}
    text = json.dumps(
        {"repository": REPOSITORY, "revision": revision, "files": {**_files(notes), **noted}}, indent=1
    )
    (folder / NOTES).write_text(text + "\n", encoding="utf-8")
    print(f"{folder}: complete. Next: python -m hallo3 convert {folder} DST")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise DependencyError(
            "Downloading needs a library that is not installed.",
            found=str(error),
            fix=f"pip install huggingface_hub, or download the files from {PAGE} by hand",
        ) from error
    return huggingface_hub


def _published(hub: Any, revision: str, patterns: Iterable[str]) -> tuple[str, dict[str, tuple[int, str]]]:
    """The commit, and size and SHA-256 (where the page knows it) of each file that is wanted."""
    try:
        info = hub.HfApi().model_info(REPOSITORY, revision=revision, files_metadata=True)
    except Exception as error:
        raise _failed(error) from error
    found: dict[str, tuple[int, str]] = {}
    for file in info.siblings or ():
        if any(fnmatchcase(file.rfilename, pattern) for pattern in patterns):
            found[file.rfilename] = int(file.size or 0), str(getattr(file.lfs, "sha256", "") or "")
    if not found:
        raise CheckpointError(
            "The files are not there any more.",
            found=f"none of {', '.join(patterns)} in {REPOSITORY} at {revision}",
            expected="the files of the original's release",
            fix=f"look at {PAGE}, and choose another --revision",
        )
    return str(info.sha), found


def _check(folder: Path, published: Mapping[str, tuple[int, str]], notes: Mapping[str, Any]) -> None:
    """Sizes always, hashes of files that were not checked before."""
    known = _files(notes)
    for name, (size, digest) in published.items():
        path = folder / name
        there = path.stat().st_size if path.is_file() else -1
        if there != size:
            raise _wrong(path, f"{max(there, 0):,} bytes", f"{size:,} bytes")
        if digest and known.get(name) != {"size": size, "sha256": digest}:
            found = _hash(path, size)
            if found != digest:
                raise _wrong(path, f"SHA-256 {found}", digest)


def _hash(path: Path, size: int) -> str:
    digest = sha256()
    with (
        path.open("rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"checking {path.name}") as bar,
    ):
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _wrong(path: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "A downloaded file is not what was published.",
        found=f"{path}: {found}",
        expected=expected,
        fix="delete it and run the same command again",
    )


def _failed(error: Exception) -> OutputError:
    return OutputError(
        "The download did not finish.",
        found=(str(error).splitlines() or ["no reason given"])[0][:300],
        expected="a connection to huggingface.co and room on the disk",
        fix="run the same command again: it goes on where it stopped",
    )


def _notes(folder: Path) -> dict[str, Any]:
    try:
        found: object = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _files(notes: Mapping[str, Any]) -> dict[str, Any]:
    files = notes.get("files")
    return cast("dict[str, Any]", files) if isinstance(files, dict) else {}
