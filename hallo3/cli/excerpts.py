"""The part of a recording that a request is about, as a file of its own for as long as the session lasts."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

from ..media.excerpt import Excerpt
from .options import AnimateOptions
from .session import Session, look_at


class _Folder:
    """Deleted with its files when it is no longer used."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="hallo3_"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def use_excerpt(options: AnimateOptions, session: Session) -> AnimateOptions:
    """The options with the part of the recording that they name. Raises ``InputError``, ``AudioError``."""
    speech = options.speech
    assert speech is not None  # checked before
    excerpt = Excerpt(
        start=options.from_time or 0.0,
        stop=options.to_time,
        before=options.silence_before,
        after=options.silence_after,
    )
    if excerpt.is_whole:
        return options

    def cut() -> tuple[_Folder, Path]:
        target = (folder := _Folder()).path / f"{speech.stem}.wav"
        excerpt.write(speech, target, options.track)
        return folder, target

    _, path = session.keep("excerpt", (*look_at(speech), options.track, excerpt), cut)
    return replace(options, speech=path, track=None)
