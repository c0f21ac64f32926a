"""One worker of the fleet, which renders one video after the other for the server."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from ..errors import Hallo3Error
from ..fleet.dispatch import DONE, OUT_OF_MEMORY, STOPPED, Outcome, Task
from ..fleet.workers import DIED, NOTE, PROGRESS, OpenRender, Processes
from ..messages import logger
from ..progress import FollowShare

LATE = "late"
"""An outcome beside those of a task."""
POLL_SECONDS = 0.05
STOP_SECONDS = 10.0
"""For a video to end between two of its steps, so that its process keeps what it has loaded."""


def describe(message: str) -> dict[str, str]:
    """An error's text for JSON: the whole, and its parts."""
    headline, *lines = message.splitlines() or [""]
    parts = {
        label.strip().lower(): text.strip() for label, _, text in (line.partition(":") for line in lines)
    }
    known = {name: parts[name] for name in ("found", "expected", "fix") if name in parts}
    return {"message": message, "headline": headline, **known}


class Worker:
    """A process that is started when it is first needed, and again after a crash or a stop. All calls but
    :meth:`interrupt` come from one thread."""

    def __init__(self, open_render: OpenRender) -> None:
        self._workers, self._name, self._ending = Processes(open_render), "", threading.Event()

    def run(self, options: Any, follow: FollowShare, stop: threading.Event, limit: float) -> Outcome:
        """Render a video within ``limit`` seconds, unless ``stop`` is set; out of memory, once more with
        less. The process of a video that does not stop in ``STOP_SECONDS`` is ended."""
        until, task = time.monotonic() + limit, Task(number=0, key="", group=(), cost=0.0, payload=options)
        self._name, stopped = self._name or self._workers.start(), None
        self._workers.submit(self._name, task)
        while not self._ending.is_set():
            if stopped is None and (stop.is_set() or time.monotonic() > until):
                stopped = Outcome(STOPPED) if stop.is_set() else _late(limit)
                until = time.monotonic() + STOP_SECONDS
                self._workers.stop_row(self._name)
            for event in self._workers.poll(POLL_SECONDS):
                if event.kind == PROGRESS:
                    follow(event.share)
                elif event.kind == NOTE:
                    logger.warning(event.text)
                elif event.kind == DIED:
                    self._name = ""
                    fix = "resume it; a lack of memory is the usual reason"
                    error = Hallo3Error("The video's process ended.", found=event.text, fix=fix)
                    return stopped or Outcome(DIED, str(error))
                elif event.outcome is not None:
                    if stopped is not None and event.outcome.kind != DONE:
                        return stopped
                    if event.outcome.kind != OUT_OF_MEMORY or task.smaller:
                        return event.outcome
                    task = replace(task, smaller=True)
                    self._workers.submit(self._name, task)
            if stopped is not None and time.monotonic() > until:
                break
        self.close()
        return stopped or Outcome(STOPPED)

    def interrupt(self) -> None:
        """Stop what is rendered, now and from now on."""
        self._ending.set()

    def close(self) -> None:
        """End the process. What is finished stays."""
        self._workers.close()
        self._name = ""


def _late(limit: float) -> Outcome:
    fix = "resume it: finished segments are kept"
    error = Hallo3Error("The video took too long.", found=f"more than {limit:g} s", fix=fix)
    return Outcome(LATE, str(error))
