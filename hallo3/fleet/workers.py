"""Workers: in this process, or each in one of its own; and the loop that gives them tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from ..errors import BusyError, Hallo3Error, InputError, OutputError, describe_error, is_out_of_memory
from ..messages import redirect_messages
from ..progress import FollowShare, no_progress
from ..storage.files import DISK_FULL
from .dispatch import (
    BLOCKED,
    DONE,
    ELSEWHERE,
    FAILED,
    FINAL,
    OUT_OF_MEMORY,
    REFUSED,
    RUNNING,
    STOPPED,
    WAITING,
    Dispatcher,
    Outcome,
    State,
    Task,
)

Render = Callable[[Task, FollowShare], str]
"""Renders a task and returns what to say of it. Raises ``BusyError`` if another run has it in hand."""
OpenRender = Callable[[int], Render]
"""Makes what a worker renders with, and keeps what it loads there; gets the worker's place, from 0. It is
found again by its module and name in another process."""
BEGAN, PROGRESS, NOTE, ENDED, DIED = "began", "progress", "note", "ended", "died"
POLL_SECONDS, WAKE_SECONDS, STOP_SECONDS = 0.5, 5.0, 2.0
MAX_DEATHS = 10
"""Per worker, one after the other with no row finished between them."""
PAUSE_SECONDS, MAX_BLOCKED_SECONDS = 5.0, 600.0
"""Until a worker whose row was blocked gets another; of blocked rows on all workers, until the run ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a worker says: PROGRESS, a NOTE, an OUTCOME of its task as ENDED, or that it DIED."""

    worker: str
    kind: str
    text: str = ""
    share: float = 0.0
    outcome: Outcome | None = None
    state: State | None = None


class StopRow(BaseException):
    """Raised between two steps of a row that is to stop; what is loaded stays usable."""


class Workers(Protocol):
    """Workers by their names; all calls come from one thread."""

    def start(self) -> str: ...
    def submit(self, worker: str, task: Task) -> None: ...
    def poll(self, seconds: float) -> list[Event]:
        """What happened since; waits up to ``seconds`` for something to happen."""
        ...

    def stop(self, worker: str) -> None: ...
    def close(self) -> None: ...


def render_task(render: Render, task: Task, follow: FollowShare) -> Outcome:
    """Every error of a task is an outcome."""
    started = time.monotonic()
    try:
        kind, text = DONE, render(task, follow)
    except BusyError as error:
        kind, text = ELSEWHERE, str(error)
    except Exception as error:
        kind, text = FAILED, str(error) if isinstance(error, Hallo3Error) else describe_error(error)
        if getattr(error, "may_pass", getattr(error, "errno", None) in DISK_FULL):
            kind = BLOCKED
        elif isinstance(error, InputError):
            kind = REFUSED
        elif is_out_of_memory(error):
            kind = OUT_OF_MEMORY
    return Outcome(kind, text, time.monotonic() - started)


class InProcess:
    """One worker, which computes while it is polled; its messages and bars are this process' own."""

    def __init__(self, open_render: OpenRender) -> None:
        self._open, self._render, self._started = open_render, None, 0
        self._task: tuple[str, Task] | None = None

    def start(self) -> str:
        self._render, self._started = self._open(0), self._started + 1
        return f"worker {self._started}"

    def submit(self, worker: str, task: Task) -> None:
        self._task = worker, task

    def poll(self, seconds: float) -> list[Event]:
        if self._task is None or self._render is None:
            time.sleep(seconds)
            return []
        (worker, task), self._task = self._task, None
        return [Event(worker=worker, kind=ENDED, outcome=render_task(self._render, task, no_progress))]

    def stop(self, worker: str) -> None:
        del worker
        self._render = None  # with what it loaded

    def close(self) -> None:
        self._render = None


class Processes:
    """A process per worker. One that dies is noticed; one whose driver died ends at its next report."""

    def __init__(self, open_render: OpenRender) -> None:
        self._open, self._started = open_render, 0
        self._context = multiprocessing.get_context("spawn")
        self._workers = dict[str, tuple[int, BaseProcess, Connection]]()

    def start(self) -> str:
        self._started += 1
        name, taken = f"worker {self._started}", {place for place, _, _ in self._workers.values()}
        place = next(n for n in range(len(taken) + 1) if n not in taken)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(self._open, place, theirs), name=f"hallo3 {name}", daemon=True
        )
        with _no_interrupt():
            process.start()
        theirs.close()  # or its end would never be seen
        self._workers[name] = place, process, ours
        return name

    def submit(self, worker: str, task: Task) -> None:
        with suppress(OSError):  # it died, which `poll` will see
            self._workers[worker][2].send(task)

    def poll(self, seconds: float) -> list[Event]:
        ready = {
            *wait(
                [each for _, process, pipe in self._workers.values() for each in (process.sentinel, pipe)],
                seconds,
            )
        }
        events = list[Event]()
        for name, (_, process, pipe) in [*self._workers.items()]:
            if not ready & {process.sentinel, pipe}:
                continue
            try:
                while pipe.poll():
                    events.append(_read(name, pipe.recv()))
            except (EOFError, OSError):
                process.join(STOP_SECONDS)
            if not process.is_alive():
                events.append(Event(worker=name, kind=DIED, text=_describe_end(process.exitcode)))
                pipe.close()
                del self._workers[name]
        return events

    def stop_row(self, worker: str) -> None:
        """Ask for the end of its task, which is then STOPPED; it hears it when it next reports."""
        with suppress(OSError):
            self._workers[worker][2].send(None)

    def stop(self, worker: str) -> None:
        self._stop(worker)

    def close(self) -> None:
        self._stop(*self._workers)

    def _stop(self, *workers: str) -> None:
        """They end when they are idle, or next report; a moment later they are killed. A commit is one
        rename: nothing that is finished is lost."""
        stopped, until = [self._workers.pop(worker) for worker in workers], time.monotonic() + STOP_SECONDS
        for _, _, pipe in stopped:
            pipe.close()
        for _, process, _ in stopped:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()


@contextmanager
def _no_interrupt() -> Generator[None]:
    """A process that is started inside the block never hears Ctrl-C, which would end it with a traceback
    while it imports."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # or `start` does it, and lets the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read(worker: str, message: Any) -> Event:
    if isinstance(message, Outcome):
        return Event(worker=worker, kind=ENDED, outcome=message)
    kind, share, text = message
    return Event(worker=worker, kind=kind, share=share, text=text)


def _describe_end(code: int | None) -> str:
    with suppress(ValueError):
        return f"its worker was killed ({signal.Signals(-(code or 0)).name})"
    return f"its worker ended with code {code}"


def _serve(open_render: OpenRender, place: int, pipe: Connection) -> None:
    """What a worker's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which stops its workers

    last: tuple[object, ...] = ()

    def send(*message: object) -> None:
        nonlocal last
        if message != last:
            last = message
            try:
                pipe.send(message)
            except OSError:  # the driver is gone
                raise SystemExit from None

    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        sys.stderr = nowhere  # its bars

        def follow(share: float) -> None:
            send(PROGRESS, share, "")
            try:
                is_stopped = pipe.poll() and pipe.recv() is None
            except (EOFError, OSError):
                raise SystemExit from None
            if is_stopped:
                raise StopRow

        render = open_render(place)
        with redirect_messages(lambda text: send(NOTE, 0.0, text)):
            while True:
                try:
                    task = pipe.recv()
                except (EOFError, OSError):
                    return
                if task is None:  # the task that was to stop had ended
                    continue
                try:
                    outcome = render_task(render, task, follow)
                except StopRow:
                    outcome = Outcome(STOPPED)
                try:
                    pipe.send(outcome)
                except OSError:
                    return


def run_tasks(dispatcher: Dispatcher, workers: Workers, count: int) -> Generator[Event]:
    """Give tasks to ``count`` workers, and replace those that die or are spent, until no task is left. Yields
    events with the state of the task that they are about.

    Raises ``OutputError`` if workers die again and again with nothing finished, or nothing can be written.
    """
    in_hand, deaths, last, slept = dict[str, State | None](), 0, "", time.monotonic()
    blocked = dict[str, tuple[float, float]]()  # of workers whose last row was: since when, and until when
    try:
        while not dispatcher.over:
            while len(in_hand) < min(count, dispatcher.counts[WAITING] + dispatcher.counts[RUNNING]):
                in_hand[workers.start()] = None
            for worker in [name for name, state in in_hand.items() if state is None]:
                if worker in blocked and time.monotonic() < blocked[worker][1]:
                    continue
                if (task := dispatcher.next(worker)) is not None:
                    in_hand[worker] = state = dispatcher.states[task.number]
                    workers.submit(worker, task)
                    yield Event(worker=worker, kind=BEGAN, state=state)
                elif dispatcher.is_spent(worker):
                    dispatcher.lose(worker)
                    workers.stop(worker)
                    del in_hand[worker]
            for event in workers.poll(POLL_SECONDS):
                state = in_hand.get(event.worker)
                if event.kind == ENDED and event.outcome is not None and state is not None:
                    in_hand[event.worker] = None
                    dispatcher.finish(event.worker, event.outcome)
                    deaths = deaths if state.kind not in FINAL else 0
                    now = time.monotonic()
                    since, _ = blocked.pop(event.worker, (now, now))
                    if event.outcome.kind == BLOCKED:
                        blocked[event.worker] = since, now + PAUSE_SECONDS
                elif event.kind == DIED and event.worker in in_hand:
                    del in_hand[event.worker]
                    dispatcher.lose(event.worker, event.text)
                    deaths, last = deaths + 1, event.text
                yield Event(
                    worker=event.worker, kind=event.kind, text=event.text, share=event.share, state=state
                )
            if deaths >= MAX_DEATHS * count:
                raise OutputError(
                    "Workers die one after the other.",
                    found=f"{deaths} in a row; the last: {last}",
                    expected="workers that finish rows",
                    fix="render a row alone with `hallo3 animate`, or use fewer workers",
                )
            oldest = time.monotonic() - MAX_BLOCKED_SECONDS
            if in_hand and all(name in blocked and blocked[name][0] < oldest for name in in_hand):
                raise OutputError(
                    "Videos cannot be written.",
                    found=f"no worker has written one for {MAX_BLOCKED_SECONDS:.0f} s, for the reasons above",
                    expected="space on the disk, and a storage that answers",
                    fix="free some space or repair the storage, and run the same again: it resumes",
                )
            if time.monotonic() - slept > WAKE_SECONDS:
                dispatcher.wake()
                slept = time.monotonic()
    finally:
        workers.close()
