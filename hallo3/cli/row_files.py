"""What a row's files look like, so that a row that is done is known again without opening them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ..checkpoints.locate import ModelFolder
from ..config import COMPONENTS
from ..jobs.video_job import NUMERICS
from ..storage.hashing import hash_facts, identify
from .options import AnimateOptions

WRITTEN = "output", "preview", "save_identity", "speech_chart", "chart"
"""Options with files that a row writes."""
PLACES = "model", "jobs_folder", *COMPONENTS, "tokenizer", "faces"
"""Options with folders; files in the model's are looked at apart."""
Look = list[int] | None


def row_key(options: AnimateOptions) -> str:
    """The hash of all options: the same in every run of the table from the same folder."""
    facts = {each.name: str(getattr(options, each.name)) for each in fields(options)}
    return hash_facts(facts | {"numerics": NUMERICS})


class RowFiles:
    """Looks at every file once."""

    def __init__(self) -> None:
        self._seen, self._models = dict[Path, Look](), dict[tuple[object, ...], str]()

    def look(self, options: AnimateOptions) -> tuple[list[object], list[object]]:
        """Numbers that change when a file does: of what the row reads, and of what it writes."""
        paths = {each.name: getattr(options, each.name) for each in fields(options)}
        named = {name: path for name, path in paths.items() if isinstance(path, Path) and name not in PLACES}
        read: list[object] = [self._look(path) for name, path in named.items() if name not in WRITTEN]
        read += [self._look(voice.path) for voice in options.voices[1:] if voice.path is not None]
        written: list[object] = [self._look(path) for name, path in named.items() if name in WRITTEN]
        return [*read, self._look_at_model(options)], written

    def size(self, path: Path | None) -> int:
        """Bytes; 0 of no file."""
        seen = self._look(path) if path is not None else None
        return seen[0] if seen else 0

    def _look(self, path: Path) -> Look:
        if path not in self._seen:
            try:
                self._seen[path] = identify(path)
            except OSError:
                self._seen[path] = None
        return self._seen[path]

    def _look_at_model(self, options: AnimateOptions) -> str:
        key = options.model, *sorted(options.files.items())
        if key not in self._models:
            files = ModelFolder(options.model, options.files)
            places = [files.find(part) for part in (*COMPONENTS, "tokenizer")]
            places += [place for place in (files.faces, files.vocals) if place is not None]
            found = {str(each): self._look(each) for place in places for each in (place, *place.rglob("*"))}
            self._models[key] = hash_facts(found)
        return self._models[key]
