"""A process per device that renders one video after the other. It ends with the server, however that ends."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..errors import Hallo3Error, InputError, describe_error
from ..progress import FollowShare

Render = Callable[[Any, FollowShare], None]
"""Makes a video of options. A function of a module, so that a new process finds it; it lets what it reports
to stop it, with ``KeyboardInterrupt``."""
DONE, REFUSED, FAILED, STOPPED, LATE, CRASHED = "done", "refused", "failed", "stopped", "late", "crashed"
POLL_SECONDS, GRACE_SECONDS = 0.05, 20.0
"""How often a stop is looked for, and how long a run may take to stop before its process is killed."""


class Outcome(NamedTuple):
    """How a run ended, and the error that ended it as ``describe`` has it."""

    kind: str
    error: dict[str, str] | None = None


def describe(error: BaseException) -> dict[str, str]:
    """An error for JSON: ``message`` is the whole of it."""
    if not isinstance(error, Hallo3Error):
        error = Hallo3Error(describe_error(error))
    texts = {name: getattr(error, name) for name in ("headline", "found", "expected", "fix")}
    return {"message": str(error)} | {name: text for name, text in texts.items() if text}


def work(connection: Connection, render: Render) -> None:
    """The life of a worker's process: render what comes, report how it goes."""
    inbox, stopped = queue.SimpleQueue[tuple[int, Any]](), set[int]()

    def listen() -> None:
        try:
            while True:
                number, options = connection.recv()
                if options is None:
                    stopped.add(number)
                else:
                    inbox.put((number, options))
        except (EOFError, OSError):
            os._exit(0)  # the server is gone; what is finished is on disk

    threading.Thread(target=listen, daemon=True).start()
    while True:
        number, options = inbox.get()

        def follow(share: float, number: int = number) -> None:
            if number in stopped:
                raise KeyboardInterrupt
            connection.send((number, share))

        try:
            render(options, follow)
            outcome = Outcome(DONE)
        except KeyboardInterrupt:
            outcome = Outcome(STOPPED)
        except Exception as error:
            outcome = Outcome(REFUSED if isinstance(error, InputError) else FAILED, describe(error))
        connection.send((number, outcome))


class Worker:
    """The server's end of a process, started when it is first needed and again after a crash."""

    def __init__(self, render: Render) -> None:
        self._render, self._number, self._ending = render, 0, threading.Event()
        self._process: Any = None
        self._connection: Any = None

    def run(self, options: Any, follow: FollowShare, stop: threading.Event, limit: float) -> Outcome:
        """Render a video within ``limit`` seconds, unless ``stop`` is set."""
        self._number += 1
        started, asked, late = time.monotonic(), 0.0, False
        try:
            if self._process is None or not self._process.is_alive():
                self._start()
            self._connection.send((self._number, options))
            while True:
                if self._connection.poll(POLL_SECONDS):
                    number, message = self._connection.recv()
                    if isinstance(message, Outcome):
                        return message if message.kind != STOPPED else _stopped(late, limit)
                    if number == self._number:
                        follow(message)
                now = time.monotonic()
                if not asked and (stop.is_set() or now - started > limit):
                    asked, late = now, not stop.is_set()
                    self._connection.send((self._number, None))
                if self._ending.is_set() or (asked and now - asked > GRACE_SECONDS):
                    self.close()
                    return _stopped(late, limit)
        except (EOFError, OSError):
            code = self.close()
            return _stopped(late, limit) if asked else Outcome(CRASHED, describe(_crash(code)))

    def interrupt(self) -> None:
        """End the process, also while it renders."""
        self._ending.set()

    def close(self) -> int | None:
        """End the process; its exit code."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        self._connection.close()
        process.join(1.0)
        process.kill()
        process.join()
        return process.exitcode

    def _start(self) -> None:
        self.close()
        context = get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, self._render), daemon=True)
        self._process.start()
        other.close()


def _stopped(late: bool, limit: float) -> Outcome:
    if not late:
        return Outcome(STOPPED)
    found, fix = f"more than {limit:g} s", "resume it: finished segments are kept"
    return Outcome(LATE, describe(Hallo3Error("The video took too long.", found=found, fix=fix)))


def _crash(code: int | None) -> Hallo3Error:
    fix = "look at the server's log; a lack of memory is the usual reason"
    return Hallo3Error("The process that rendered the video ended.", found=f"exit code {code}", fix=fix)
