"""Where identities are among ComfyUI's files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...hallo3.identity_file import SUFFIX

IDENTITY_FOLDER = "hallo3_identities"
"""In ComfyUI's output folder, where they are saved, and in its input folder, where others are put."""
OUTPUT = " [output]"
"""What ComfyUI writes behind the name of a file in its output folder."""


def identities() -> list[str]:
    """Names of what is there, as ComfyUI writes them; those in the output folder first."""
    places = (folder_paths.get_output_directory(), OUTPUT), (folder_paths.get_input_directory(), "")
    found: list[str] = []
    for root, ending in places:
        files = sorted((Path(root) / IDENTITY_FOLDER).rglob(f"*{SUFFIX}"))
        found += [f"{file.relative_to(root).as_posix()}{ending}" for file in files if file.is_file()]
    return found


def path_of(name: str) -> Path | None:
    """The file of a name, if it is there and inside of ComfyUI's folders."""
    inside = folder_paths.get_input_directory()
    if name.endswith(OUTPUT):
        inside, name = folder_paths.get_output_directory(), name.removesuffix(OUTPUT)
    root = Path(inside).resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) and path.is_file() else None
