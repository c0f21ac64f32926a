"""Which worker renders which row next, and what becomes of a row that fails: rules only, without processes,
files or a clock. A step takes O(log n) of n rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

DONE, REFUSED, FAILED, OUT_OF_MEMORY, ELSEWHERE = "done", "refused", "failed", "out of memory", "elsewhere"
BLOCKED, STOPPED = "blocked", "stopped"
WAITING, RUNNING, PARKED = "waiting", "running", "parked"
FINAL = DONE, REFUSED, FAILED, PARKED
TRIES, DEATHS = 3, 3
"""Of a row that fails; of workers with the same row in hand."""
WORKER_FAILURES = 3
"""Different rows that a worker may fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A row to render. ``key`` is the same in every run of the table. Tasks whose ``group`` begins with the
    same names share what is loaded. ``cost`` is in any unit of time; ``smaller`` asks for a smaller memory
    plan."""

    number: int
    key: str
    group: tuple[str, ...]
    cost: float
    payload: Any
    smaller: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended on a worker: DONE, REFUSED, FAILED, OUT_OF_MEMORY, BLOCKED by a full disk or a storage
    that does not answer, which is no failure of the row, ELSEWHERE if another run has it in hand, or
    STOPPED on request."""

    kind: str
    message: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class State:
    """Where a task is: WAITING, RUNNING, ELSEWHERE or one of ``FINAL``."""

    task: Task
    kind: str = WAITING
    message: str = ""
    seconds: float = 0.0
    failures: int = 0
    deaths: int = 0


@dataclass(slots=True)
class _Worker:
    group: tuple[str, ...] = ()
    task: int | None = None
    failed: set[int] = field(default_factory=set[int])


class _Queue:
    """Waiting tasks of a group: the longest first, or of the groups in it the one with the most work per
    worker, unless a worker stays in its own."""

    def __init__(self) -> None:
        self.size, self.cost, self.workers, self.share = 0, 0.0, 0, 0.0
        self._tasks, self._order = list[tuple[float, int]](), list[tuple[float, str]]()
        self._parts = dict[str, _Queue]()

    def push(self, task: Task, group: tuple[str, ...]) -> None:
        self.size, self.cost = self.size + 1, self.cost + task.cost
        if group:
            self._parts.setdefault(group[0], _Queue()).push(task, group[1:])
            self._rank(group[0])
        else:
            heappush(self._tasks, (-task.cost, task.number))

    def pop(self, group: tuple[str, ...]) -> int:
        """The next task of a worker that was in ``group``."""
        if self._tasks:
            cost, number = heappop(self._tasks)
            cost = -cost
        else:
            name = group[0] if group and group[0] in self._parts and self._parts[group[0]].size else ""
            name = name or self._first()
            part = self._parts[name]
            cost = part.cost
            number = part.pop(group[1:] if group[:1] == (name,) else ())
            cost -= part.cost
            self._rank(name)
        self.size -= 1
        self.cost = self.cost - cost if self.size else 0.0
        return number

    def count(self, group: tuple[str, ...], workers: int) -> None:
        """``workers`` joined ``group``; below 0: left it."""
        self.workers += workers
        if group:
            self._parts[group[0]].count(group[1:], workers)
            self._rank(group[0])

    def _rank(self, name: str) -> None:
        part = self._parts[name]
        part.share = part.cost / (part.workers + 1)
        if part.size:
            heappush(self._order, (-part.share, name))

    def _first(self) -> str:
        while True:
            share, name = self._order[0]
            if self._parts[name].size and -share == self._parts[name].share:
                return name
            heappop(self._order)  # an earlier rank


class Dispatcher:
    """Workers are known by their names from their first ``next`` on. ``states`` has each task's by its
    number, ``counts`` how many there are of each kind, ``cost`` that of all."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.states = {task.number: State(task) for task in tasks}
        self.counts = Counter({WAITING: len(self.states)})
        self.cost = sum(state.task.cost for state in self.states.values())
        self._queue, self._again = _Queue(), list[tuple[float, int]]()
        self._elsewhere, self._workers = list[int](), dict[str, _Worker]()
        for state in self.states.values():
            self._queue.push(state.task, state.task.group)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return sum(self.counts[kind] for kind in FINAL) == len(self.states)

    def next(self, worker: str) -> Task | None:
        """What the worker is to render; None if there is nothing for it now. Rows that failed come last, and
        to another worker where there is one."""
        mine = self._workers.setdefault(worker, _Worker())
        if mine.task is not None:
            raise ValueError(f"{worker} has a task")
        if len(mine.failed) >= WORKER_FAILURES:
            return None
        if self._queue.size:
            number = self._queue.pop(mine.group)
        elif (number := self._retry(mine)) is None:
            return None
        task = self._set(number, RUNNING).task
        self._move(mine, task.group)
        mine.task = number
        return task

    def finish(self, worker: str, outcome: Outcome) -> State:
        """The state of the worker's task now."""
        mine = self._workers[worker]
        if (number := mine.task) is None:
            raise ValueError(f"{worker} has no task")
        mine.task, state = None, self.states[number]
        state.message, state.seconds = outcome.message, state.seconds + outcome.seconds
        if outcome.kind in (DONE, REFUSED):
            return self._set(number, outcome.kind)
        if outcome.kind == ELSEWHERE:
            self._elsewhere.append(number)
            return self._set(number, ELSEWHERE)
        if outcome.kind == OUT_OF_MEMORY:
            if state.task.smaller:
                return self._set(number, FAILED)
            state.task = replace(state.task, smaller=True)
        elif outcome.kind != BLOCKED:
            mine.failed.add(number)
            state.failures += 1
            if state.failures >= TRIES:
                return self._set(number, FAILED)
        return self._wait(number)

    def lose(self, worker: str, message: str = "") -> State | None:
        """The worker is gone, with what it had in hand: that task's state now."""
        mine = self._workers.pop(worker, None)
        if mine is None:
            return None
        self._move(mine, ())
        if mine.task is None:
            return None
        number, state = mine.task, self.states[mine.task]
        state.deaths, state.message = state.deaths + 1, message
        return self._set(number, PARKED) if state.deaths >= DEATHS else self._wait(number)

    def is_spent(self, worker: str) -> bool:
        """Whether another worker should take the place of this one: it failed too many rows, or all that is
        left for it are rows that it failed."""
        mine = self._workers[worker]
        if mine.task is not None:
            return False
        its_own = 0 < len(self._again) <= len(mine.failed) and not self._queue.size
        its_own = its_own and all(number in mine.failed for _, number in self._again)
        return len(mine.failed) >= WORKER_FAILURES or (its_own and len(self._workers) > 1)

    def wake(self) -> None:
        """Offer again what was in the hands of another run."""
        for number in self._elsewhere:
            self._set(number, WAITING)
            self._queue.push(self.states[number].task, self.states[number].task.group)
        self._elsewhere.clear()

    def _retry(self, mine: _Worker) -> int | None:
        skipped, found, alone = list[tuple[float, int]](), None, len(self._workers) == 1
        while self._again and found is None:  # at most WORKER_FAILURES are skipped
            entry = heappop(self._again)
            if entry[1] in mine.failed and not alone:
                skipped.append(entry)
            else:
                found = entry[1]
        for entry in skipped:
            heappush(self._again, entry)
        return found

    def _wait(self, number: int) -> State:
        heappush(self._again, (-self.states[number].task.cost, number))
        return self._set(number, WAITING)

    def _set(self, number: int, kind: str) -> State:
        state = self.states[number]
        self.counts[state.kind] -= 1
        self.counts[kind] += 1
        state.kind = kind
        return state

    def _move(self, mine: _Worker, group: tuple[str, ...]) -> None:
        if mine.group != group:
            if mine.group:
                self._queue.count(mine.group, -1)
            if group:
                self._queue.count(group, 1)
            mine.group = group
