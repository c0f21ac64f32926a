"""Progress bars with a clock, and the cache of verified files that outlives a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from typing import Any

from tqdm import tqdm

from ..checkpoints.verify import FileVerifier, examined_path
from ..pipeline import SAMPLING, RenderProgress
from ..progress import FollowShare, ProgressCallback, no_progress
from ..sampling.step_cache import CacheReport

CLOCK, TICK_SECONDS = "hallo3-clock", 1.0
STEP_FORMAT = "{{desc}}: {{percentage:3.0f}}%|{{bar}}| {{n_fmt}}/{{total_fmt}} [{{elapsed}}<{}, {}]"


@contextmanager
def tick(bar: Any) -> Generator[None]:
    """Draw a bar again every second, on a terminal: tqdm draws only what advances, and a step can take
    minutes."""
    stopped = Event()

    def draw() -> None:
        while not stopped.wait(TICK_SECONDS):
            bar.refresh()

    clock = Thread(target=draw, name=CLOCK, daemon=True)
    if sys.stderr.isatty():
        clock.start()
    try:
        yield
    finally:
        stopped.set()
        if clock.ident is not None:
            clock.join()


@contextmanager
def _show(what: str, total: int, **layout: Any) -> Generator[ProgressCallback]:
    """On a terminal a bar with the time left, removed when it is full; only a clock if the ``total`` is 0, so
    unknown."""
    layout = layout if total else {"bar_format": "{desc} [{elapsed}]"}
    with tqdm(total=total, desc=what, leave=False, disable=None, **layout) as bar, tick(bar):
        yield bar.update


show_bytes = partial(_show, unit="B", unit_scale=True)
show_percent = partial(_show, bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}")


class WorkClock:
    """Seconds of work: the clock stops while one of its displays of loading and preparing is open."""

    def __init__(self) -> None:
        self._stopped, self._displays, self._since = 0.0, 0, 0.0

    def __call__(self) -> float:
        now = time.monotonic()
        return (self._since if self._displays else now) - self._stopped

    @contextmanager
    def show_bytes(self, what: str, total: int) -> Generator[ProgressCallback]:
        if not self._displays:
            self._since = time.monotonic()
        self._displays += 1
        try:
            with show_bytes(what, total) as progress:
                yield progress
        finally:
            self._displays -= 1
            if not self._displays:
                self._stopped += time.monotonic() - self._since


class StepBar:
    """A bar over the sampling steps of the ``missing`` segments. Its rate is that of sampling alone; the time
    left counts encoding, decoding and saving too, and counts down between two steps."""

    def __init__(
        self,
        missing: int,
        segments: int,
        steps: int,
        clock: Callable[[], float],
        follow: FollowShare = no_progress,
    ) -> None:
        self._missing, self._segments, self._steps, self._clock = missing, segments, steps, clock
        self._stage, self._place, self._since = "", "", clock()
        self._sampled, self._beside, self._beside_finished = 0.0, 0.0, 0.0  # seconds; of finished segments
        self._done, self.rendered, self.cache = 0, 0, CacheReport()
        self._bar = tqdm(total=missing * steps, unit="step", bar_format=STEP_FORMAT.format("?", "?"))
        self._ticking, self._follow = tick(self), follow

    def __enter__(self) -> StepBar:
        self._ticking.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._ticking.__exit__(*raised)
        self._bar.close()

    def stage(self, segment: int, name: str) -> None:
        self._count(name)
        self._place = f"segment {segment + 1}/{self._segments}"
        self._follow(self._share())
        self._bar.set_description_str(f"{self._place}, {name}", refresh=False)
        if sys.stderr.isatty():
            self.refresh()

    def watch(self, progress: RenderProgress) -> None:
        self._count(self._stage)
        self._done = min(self.rendered * self._steps + progress.step, self._bar.total)
        self._describe()
        self._bar.update(self._done - self._bar.n)
        self._follow(self._share())
        if progress.cache and progress.step == self._steps:
            self.cache += progress.cache

    def finish_segment(self) -> None:
        self._count("")
        self.rendered, self._beside_finished = self.rendered + 1, self._beside
        self._bar.set_description_str(self._place, refresh=False)

    def refresh(self) -> None:
        self._describe()
        self._bar.refresh()

    def left(self) -> float | None:
        """Seconds, from the means so far; None before the first step."""
        if not self._done:
            return None
        beside = self._beside_finished / self.rendered if self.rendered else self._beside
        needed = self._sampled / self._done * self._bar.total + beside * self._missing
        return max(0.0, needed - self._sampled - self._beside - (self._clock() - self._since))

    def _share(self) -> float:
        """Of the whole video."""
        return 1 - (self._missing - self._done / self._steps) / self._segments

    def _describe(self) -> None:
        if (left := self.left()) is not None:
            rate = f"{self._sampled / self._done:.3g} s/step"
            self._bar.bar_format = STEP_FORMAT.format(tqdm.format_interval(left), rate)

    def _count(self, stage: str) -> None:
        """Book the time since the last event; ``stage`` is what begins, or continues."""
        now = self._clock()
        if self._stage == SAMPLING:
            self._sampled += now - self._since
        else:
            self._beside += now - self._since
        self._stage, self._since = stage, now


def file_verifier() -> FileVerifier:
    """Remembers verified files; shows a bar for each file it reads."""
    return FileVerifier(examined_path(), show_bytes)
