"""Progress bars, and the cache of verified files that outlives a command."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..checkpoints.verify import FileVerifier
from ..pipeline import RenderProgress
from ..progress import ProgressCallback
from ..sampling.step_cache import CacheReport


@contextmanager
def _show(what: str, total: int, **layout: Any) -> Generator[ProgressCallback]:
    """A bar with the time left, removed when it is full."""
    with tqdm(total=total, desc=what, leave=False, **layout) as bar:
        yield bar.update


show_bytes = partial(_show, unit="B", unit_scale=True)
show_percent = partial(_show, bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}")


class StepBar:
    """A bar over the sampling steps of the ``missing`` segments."""

    def __init__(self, missing: int, segments: int, steps: int) -> None:
        self._bar = tqdm(total=missing * steps, unit="step", desc=f"segment 1/{segments}")
        self._segments, self._steps = segments, steps
        self.rendered, self.cache = 0, CacheReport()

    def __enter__(self) -> StepBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def watch(self, progress: RenderProgress) -> None:
        index = self._segments - progress.segments + progress.segment
        self._bar.set_description(f"segment {index + 1}/{self._segments}", refresh=False)
        done = self.rendered * self._steps + progress.step
        self._bar.update(min(done, self._bar.total) - self._bar.n)
        if progress.cache and progress.step == self._steps:
            self.cache += progress.cache


def home() -> Path:
    """The user's home. Raises ``RuntimeError`` if there is none."""
    return Path.home()


def file_verifier() -> FileVerifier:
    """Remembers verified files in the user's home, if there is one; shows a bar for each file it reads."""
    try:
        return FileVerifier(home() / ".cache" / "hallo3" / "examined.json", show_bytes)
    except RuntimeError:
        return FileVerifier(open_progress=show_bytes)
