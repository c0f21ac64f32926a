"""Where the files are for which ComfyUI has no loader: the face analyzer's and the vocal separator's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import folder_paths

from ...hallo3.checkpoints.locate import RELEASE, VOCALS
from ...hallo3.face.photo import FACE_DIRS, FACE_SUBDIRS
from ...hallo3.face.scrfd import DETECTOR_FILENAME

INSIGHTFACE = "insightface"
"""Folder under which other packs list the face analyzer's files."""


def find_faces() -> Path | None:
    """The first folder with the face analyzer's files, else the first that is there for them."""
    folders = [place for place in _places((*FACE_DIRS, INSIGHTFACE)) if place.is_dir()]
    return next((folder for folder in folders if _holds_analyzer(folder)), next(iter(folders), None))


def find_vocals() -> Path:
    """The vocal separator's file; where it belongs, if it is nowhere."""
    places = list(_places(VOCALS))
    return next((place for place in places if place.is_file()), places[0])


def _places(names: Iterable[str]) -> Iterator[Path]:
    """Where files and folders with these relative names may be: among ComfyUI's models, in the folders that
    ``extra_model_paths.yaml`` gives for the first part of a name, beside those that it gives for weights."""
    for name in names:
        yield Path(folder_paths.models_dir) / name
        kind, _, rest = name.partition("/")
        yield from (folder / rest for folder in _registered(kind))
        kinds = sorted({component.folder for component in RELEASE.values()})
        yield from dict.fromkeys(folder.parent / name for each in kinds for folder in _registered(each))


def _registered(kind: str) -> list[Path]:
    folders, _ = folder_paths.folder_names_and_paths.get(kind, ([], set[str]()))
    return [Path(folder) for folder in folders]


def _holds_analyzer(folder: Path) -> bool:
    return any((folder / place / DETECTOR_FILENAME).is_file() for place in FACE_SUBDIRS)
