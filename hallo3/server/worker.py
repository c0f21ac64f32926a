"""One worker of the fleet, which renders one video after the other for the server."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from ..errors import Hallo3Error
from ..fleet.dispatch import OUT_OF_MEMORY, Outcome, Task
from ..fleet.workers import DIED, NOTE, PROGRESS, OpenRender, Processes
from ..messages import logger
from ..progress import FollowShare

STOPPED, LATE = "stopped", "late"
"""Outcomes beside those of a task."""
POLL_SECONDS = 0.05


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
        less."""
        started, task = time.monotonic(), Task(number=0, key="", group=(), cost=0.0, payload=options)
        self._name = self._name or self._workers.start()
        self._workers.submit(self._name, task)
        while not (stop.is_set() or self._ending.is_set()):
            for event in self._workers.poll(POLL_SECONDS):
                if event.kind == PROGRESS:
                    follow(event.share)
                elif event.kind == NOTE:
                    logger.warning(event.text)
                elif event.kind == DIED:
                    self._name = ""
                    fix = "resume it; a lack of memory is the usual reason"
                    error = Hallo3Error("The video's process ended.", found=event.text, fix=fix)
                    return Outcome(DIED, str(error))
                elif event.outcome is not None:
                    if event.outcome.kind != OUT_OF_MEMORY or task.smaller:
                        return event.outcome
                    task = replace(task, smaller=True)
                    self._workers.submit(self._name, task)
            if time.monotonic() - started > limit:
                self.close()
                fix = "resume it: finished segments are kept"
                error = Hallo3Error("The video took too long.", found=f"more than {limit:g} s", fix=fix)
                return Outcome(LATE, str(error))
        self.close()
        return Outcome(STOPPED)

    def interrupt(self) -> None:
        """Stop what is rendered, now and from now on."""
        self._ending.set()

    def close(self) -> None:
        """End the process. What is finished stays."""
        self._workers.close()
        self._name = ""
