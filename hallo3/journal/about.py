"""What a job is: a description in its folder, which can be made again from any of its segments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import OutputError
from ..storage.whole import unwritable, write_whole
from .record import read_note

ABOUT, SEGMENTS = "job.json", "segments"
CONTENT, PARENT, MADE_WITH = "content", "goes on from", "made with"
"""Among what is for people: the finished file's hash, the job it goes on from, what computed it."""
FORMAT = 1
"""Of the folder. An older program refuses a newer one's."""
HEADLINE = "What is finished of the video cannot be kept."
LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A job: its ``key``, from which its folder has its name; the ``root`` of its chain; ``segments`` and
    ``frames`` in all; ``headers`` of its pieces, which can only be joined with their like. ``what`` is for
    people: portrait, speech, model. ``format`` is the folder's."""

    key: str
    root: str
    segments: int
    frames: int
    headers: str
    what: Mapping[str, str] = field(default_factory=dict[str, str])
    finished: bool = False
    format: int = FORMAT

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def about_of(text: str) -> About:
    """From JSON. Raises ``ValueError`` for anything else."""
    said = _object(text)
    texts, numbers = ("key", "root", "headers"), ("segments", "frames", "format")
    what: Any = said.get("what")
    right = [isinstance(said.get(name), str) for name in texts]
    right += [type(said.get(name)) is int for name in numbers]
    if not all(right) or not isinstance(what, dict) or not isinstance(said.get("finished"), bool):
        raise ValueError("no description of a job")
    known = {name: said[name] for name in (*texts, *numbers, "finished")}
    return About(**known, what={str(k): str(v) for k, v in cast("dict[Any, Any]", what).items()})


def write_about(folder: Path, about: About) -> None:
    """Describe a job, for listing it. Raises ``OutputError``."""
    try:
        write_whole(folder / ABOUT, [about.text().encode()])
    except OSError as error:
        raise unwritable(HEADLINE, folder / ABOUT, error) from error


def read_about(folder: Path) -> About | None:
    """What a folder's job is, by its description or else by its segments; None where it is no job."""
    try:
        return about_of(_read(folder / ABOUT))
    except (OSError, ValueError):
        pass
    for path in sorted((folder / SEGMENTS).glob("*.safetensors")):
        with suppress(OSError, ValueError):
            noted = read_note(path)
            if noted is not None:
                return about_of(noted[1])
    return None


def check_format(folder: Path) -> None:
    """Refuse a folder that a newer program has written. Raises ``OutputError``."""
    try:
        found = _object(_read(folder / ABOUT)).get("format")
    except (OSError, ValueError):
        return
    if isinstance(found, int) and found > FORMAT:
        raise OutputError(
            "The job was begun by a newer version of Hallo3.",
            found=f"{folder} of format {found}",
            expected=f"format {FORMAT} or older",
            do="update Hallo3, or start again in another folder",
        )


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(LARGEST).decode()


def _object(text: str) -> dict[str, Any]:
    try:
        said: object = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(said, dict):
        raise ValueError("no JSON object")
    return cast("dict[str, Any]", said)
