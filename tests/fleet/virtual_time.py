"""Processes in virtual time: plain functions in threads of which one runs at a time, in an order that a seed
decides. ``Clockwork.kill`` ends a process at whatever it waits for; its requests stay in flight."""

import queue
import threading
from collections.abc import Callable
from heapq import heappop, heappush

_idle = queue.SimpleQueue["_Thread"]()


class Killed(BaseException):
    """Raised in a process that was killed, wherever it waits."""


class _Thread(threading.Thread):
    """A thread that outlives a process: starting one takes longer than a schedule's other steps."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.go, self.work = threading.Lock(), None
        self.go.acquire()
        self.start()

    def run(self) -> None:
        while True:
            self.go.acquire()
            assert self.work is not None
            self.work()


class Process:
    def __init__(self, clockwork: "Clockwork", function: Callable[[], None]) -> None:
        self.is_dead = self.has_ended = False
        self.thread = _Thread() if _idle.empty() else _idle.get()
        self.thread.work = self._run
        self._clockwork, self._function = clockwork, function

    def _run(self) -> None:
        clockwork = self._clockwork
        try:
            if not self.is_dead:
                self._function()
        except Killed:
            pass
        except BaseException as error:
            clockwork.error = clockwork.error or error
        self.has_ended = True
        following = clockwork.advance()  # before this thread may serve another process
        _idle.put(self.thread)
        following.release()


class Clockwork:
    """``now`` in seconds. ``error`` is the first that a process raised."""

    def __init__(self) -> None:
        self.now, self._until = 0.0, 0.0
        self.error: BaseException | None = None
        self._events = list[tuple[float, int, Process | Callable[[], None]]]()
        self._count, self._main = 0, threading.Lock()
        self.running: Process | None = None
        self._main.acquire()

    def at(self, time: float, event: Process | Callable[[], None]) -> None:
        self._count += 1
        heappush(self._events, (time, self._count, event))

    def start(self, function: Callable[[], None]) -> Process:
        process = Process(self, function)
        self.at(self.now, process)
        return process

    def kill(self, process: Process) -> None:
        process.is_dead = True
        self.at(self.now, process)

    def sleep(self, seconds: float) -> None:
        process = self.running
        assert process is not None
        if process.is_dead:
            raise Killed
        self.at(self.now + max(0.0, seconds), process)
        following = self.advance()
        if following is not process.thread.go:
            following.release()
            process.thread.go.acquire()
        if process.is_dead:
            raise Killed

    def advance(self) -> threading.Lock:
        """Run what is due until it is a process' turn: its lock, or that of ``run`` at the end."""
        while self._events and self.error is None and self._events[0][0] <= self._until:
            self.now, _, event = heappop(self._events)
            if not isinstance(event, Process):
                try:
                    event()
                except BaseException as error:
                    self.error = self.error or error
            elif not event.has_ended:
                self.running = event
                return event.thread.go
        self.running = None
        return self._main

    def run(self, until: float) -> None:
        """Raises what a process or an event raised first; processes that still wait then are ended."""
        self._until = until
        self._turn(self.advance())
        events, error = [event for _, _, event in self._events], self.error
        self.error, self._events, self._until = None, [], self.now
        for event in events:
            if isinstance(event, Process) and not event.has_ended:
                self.kill(event)
        self._turn(self.advance())
        if error is not None:
            raise error

    def _turn(self, following: threading.Lock) -> None:
        if following is not self._main:
            following.release()
            self._main.acquire()
