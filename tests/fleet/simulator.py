"""A fleet in virtual time: machines with their own clocks, and workers that run the real dispatcher and the
real claims, on a storage that is slow, fails, loses replies and lets requests land late.

What must hold is checked as each object lands in the storage, by rules that are written here a second time.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from fleet.virtual_time import Clockwork, Process
from hallo3.errors import BusyError, OutputError
from hallo3.fleet import objects as objects_module
from hallo3.fleet.claims import LOG, SEGMENTS, SIGNS, Claim, Terms
from hallo3.fleet.dispatch import DONE, ELSEWHERE, FAILED, Dispatcher, Outcome, Task
from hallo3.fleet.objects import RetriedObjects
from hallo3.storage.hashing import hash_bytes

TERMS = Terms()
CALM = 900.0
"""The second after which no fault is injected."""
END = 10_000.0
ROOT, VIDEOS, MAX_BYTES = "root", "videos", 1 << 16


class BrokenError(AssertionError):
    """An invariant that does not hold."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenError(what)


@dataclass
class Truth:
    """What has landed of a row."""

    epoch: int = 0
    owner: str = ""
    is_open: bool = False
    done: int = 0
    entries: int = 0
    segments: dict[int, tuple[int, str]] = field(default_factory=dict[int, tuple[int, str]])
    lives: list[float] = field(default_factory=list[float])
    """When something landed that others could take for a sign of life."""


class Storage:
    """Objects as fsspec's systems have them. If not ``exclusive``, ``create`` looks, then writes."""

    def __init__(self, world: "World", *, exclusive: bool = True) -> None:
        self.world, self.exclusive = world, exclusive
        self.history = defaultdict[str, list[tuple[float, bytes]]](list)

    def now(self, path: str) -> bytes | None:
        return self.history[path][-1][1] if path in self.history else None

    def pipe_file(self, path: str, value: bytes, *, mode: str = "overwrite") -> None:
        def check() -> None:
            if mode == "create" and self.now(path) is not None:
                raise FileExistsError(path)

        def land() -> None:
            if self.exclusive:
                check()
            self._put(path, value)

        if not self.exclusive:
            self._request(path, check)
        self._request(path, land)

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        def land() -> bytes:
            is_cached = path.startswith((f"{ROOT}/{LOG}", f"{ROOT}/{SIGNS}"))  # what is read again and again
            oldest = self.world.clockwork.now - is_cached * self.world.random.uniform(0, self.world.stale)
            values = [value for time, value in self.history.get(path, []) if time <= oldest]
            if not values:
                raise FileNotFoundError(path)
            return values[-1][start:end]

        return self._request(path, land)

    def put_file(self, lpath: str, rpath: str) -> None:
        value = self.world.files[lpath]
        self._request(rpath, lambda: self._put(rpath, value))

    def _put(self, path: str, value: bytes) -> None:
        if value != self.now(path):
            self.history[path].append((self.world.clockwork.now, value))
            self.world.landed(path.removeprefix(f"{ROOT}/"), value)

    def _request(self, path: str, land: Callable[[], Any]) -> Any:
        """Let a request land, and reply, each after a time of its own, or never."""
        world, random, clockwork = self.world, self.world.random, self.world.clockwork
        box: list[Any] = []

        def arrive() -> None:
            if box and path.startswith(f"{ROOT}/{SIGNS}"):
                return  # an old sign over a new one looks like no sign: only time is lost
            try:
                box.append(land())
            except OSError as error:
                box.append(error)

        there, back = random.expovariate(20), random.expovariate(20)
        luck = random.random() if world.is_stormy else 1.0
        if luck > 0.95 and world.is_stormy:
            there += random.uniform(0, 60)
        if luck < 0.10 or (world.is_out and world.is_stormy):
            world.counts["failed"] += 1
            clockwork.sleep(back)
            raise OSError("no answer")
        clockwork.at(clockwork.now + there, arrive)
        if luck < 0.14:
            world.counts["replies lost"] += 1
            clockwork.sleep(there + back)
            raise OSError("the answer was lost")
        if luck < 0.18:
            world.counts["landed late"] += 1
            clockwork.at(clockwork.now + random.uniform(1, 300), arrive)  # and once more
            clockwork.sleep(min(there, random.uniform(0, 1)))
            raise OSError("no answer in time")
        clockwork.sleep(there + back)
        if isinstance(box[0], OSError):
            raise box[0]
        return box[0]


@dataclass
class Machine:
    """``disk`` has the segments of each row that are finished here; ``busy`` the rows in hand, as file locks
    would tell."""

    name: str
    rate: float
    offset: float
    place: str
    disk: dict[str, dict[int, bytes]]
    busy: set[str] = field(default_factory=set[str])
    workers: list["Worker"] = field(default_factory=list["Worker"])


class World:
    """One schedule. All but the seed is for worlds that are broken on purpose."""

    def __init__(
        self,
        seed: int,
        *,
        make_claim: type[Claim] = Claim,
        make_objects: type[RetriedObjects] = RetriedObjects,
        exclusive: bool = True,
    ) -> None:
        self.random, self.clockwork = Random(seed), Clockwork()
        self.make_claim, self.make_objects = make_claim, make_objects
        self.storage, self.counts = Storage(self, exclusive=exclusive), Counter[str]()
        self.rows = [f"row{n}" for n in range(self.random.randint(1, 3))]
        self.length = self.random.randint(1, 3)
        self.stale = self.random.choice((0.0, 0.0, 20.0))
        self.truths = {row: Truth() for row in self.rows}
        self.files, self.is_out = dict[str, bytes](), False
        self.one_place = self.random.random() < 0.7
        self.machines = [self._machine() for _ in range(self.random.choice((2, 2, 3)))]

    @property
    def is_stormy(self) -> bool:
        return self.clockwork.now < CALM

    def run(self) -> Counter[str]:
        """Raises ``BrokenError``."""
        for machine in self.machines:
            self._start_driver(machine)
        self.clockwork.at(self.random.uniform(0, 200), self._misfortune)
        with patch.object(objects_module, "uniform", self.random.uniform):
            self.clockwork.run(END)
        for row, truth in self.truths.items():
            demand(truth.done == 1, f"{row} was finished {truth.done} times in {END:.0f} s")
            video = self.storage.now(f"{ROOT}/{VIDEOS}/{row}")
            demand(video == self._video(row), f"{row} has another video at its end")
            if self.one_place:
                demand(video == self._serial(row), f"{row} differs from a serial run")
        return self.counts

    def landed(self, name: str, value: bytes) -> None:
        """Check what must hold when an object has landed."""
        folder, key, *rest = name.split("/")
        truth = self.truths[key]
        if folder == VIDEOS:
            demand(value == self._video(key), f"{key}: a video that is not of the accepted segments")
        elif folder == SIGNS and int(rest[0]) == truth.epoch:
            truth.lives.append(self.clockwork.now)
        elif folder == LOG:
            truth.entries += 1
            demand(int(rest[0]) == truth.entries, f"{key}: entry {rest[0]} lands as number {truth.entries}")
            self._count(key, truth, json.loads(value))
            truth.lives.append(self.clockwork.now)

    def _count(self, key: str, truth: Truth, entry: dict[str, Any]) -> None:
        kind, epoch = entry["kind"], entry["epoch"]
        if kind == "claim":
            demand(epoch == truth.epoch + 1, f"{key}: epoch {epoch} after {truth.epoch}")
            demand(not truth.done, f"{key}: claimed after it was finished")
            self.counts["taken over"] += truth.is_open and truth.owner != entry["owner"]
            truth.epoch, truth.owner, truth.is_open = epoch, entry["owner"], True
            return
        demand(epoch == truth.epoch and truth.is_open, f"{key}: {kind} of epoch {epoch} in {truth.epoch}")
        if kind == "segment":
            index, digest = entry["index"], entry["hash"]
            demand(index not in truth.segments, f"{key}: segment {index} is committed twice")
            data = self.storage.now(f"{ROOT}/{SEGMENTS}/{key}/{index:06d}.{epoch}.{digest[:16]}")
            demand(data is not None and hash_bytes(data) == digest, f"{key}: segment {index} is not there")
            truth.segments[index] = epoch, digest
        elif kind == "video":
            truth.done, truth.is_open = truth.done + 1, False
            demand(len(truth.segments) == self.length, f"{key}: finished with segments missing")
            written = self.storage.now(f"{ROOT}/{VIDEOS}/{key}")
            demand(written is not None and hash_bytes(written) == entry["hash"], f"{key}: no such video")
        else:
            truth.is_open = False

    def took_over(self, key: str, asked: float) -> None:
        """A worker decides to take a row over, by what it has read since the time ``asked``."""
        quiet = asked - TERMS.lease, asked - self.stale
        lives = [life for life in self.truths[key].lives if quiet[0] < life < quiet[1]]
        demand(not lives, f"{key}: taken over {asked - max(lives, default=0):.0f} s after a sign of life")

    def _video(self, row: str) -> bytes:
        """The video of a row's accepted segments."""
        parts = (self.truths[row].segments.get(index, (0, ""))[1] for index in range(self.length))
        return ",".join(parts).encode()

    def _serial(self, row: str) -> bytes:
        parts = list[bytes]()
        for index in range(self.length):
            parts.append(render(row, index, parts, "here"))
        return ",".join(map(hash_bytes, parts)).encode()

    def _machine(self) -> Machine:
        rate = 1 + self.random.uniform(-TERMS.skew, TERMS.skew) / 2
        place = "here" if self.one_place else self.random.choice(("here", "there"))
        self.counts["machines"] += 1
        name = f"machine{self.counts['machines']}"
        offset = self.random.uniform(-400, 400)
        return Machine(name, rate, offset, place, {row: {} for row in self.rows})

    def _start_driver(self, machine: Machine) -> None:
        """A command that is typed on a machine: every row, as many workers as the machine has GPUs."""
        self._kill(machine)
        rows = self.random.sample(self.rows, len(self.rows))
        tasks = [Task(number=n, key=row, group=(), cost=1.0, payload=row) for n, row in enumerate(rows)]
        dispatcher = Dispatcher(tasks)
        for _ in range(self.random.choice((1, 1, 2))):
            self._start_worker(machine, dispatcher)

    def _start_worker(self, machine: Machine, dispatcher: Dispatcher) -> None:
        self.counts["workers"] += 1
        worker = Worker(self, machine, dispatcher, f"worker{self.counts['workers']}")
        machine.workers.append(worker)
        worker.process = self.clockwork.start(worker.run)

    def replace(self, worker: "Worker") -> None:
        """Start another worker for one that is gone, as a driver does."""
        worker.machine.workers.remove(worker)
        worker.dispatcher.lose(worker.name)
        self._start_worker(worker.machine, worker.dispatcher)

    def _misfortune(self) -> None:
        """Something happens to the fleet, and later the next thing."""
        if not self.is_stormy:
            for machine in self.machines:
                self._kill(machine)
                if not all(truth.done for truth in self.truths.values()):
                    self._start_driver(machine)
            return
        random, machine, now = self.random, self.random.choice(self.machines), self.clockwork.now
        what, soon = random.choice(("worker", "driver", "machine", "outage")), now + random.uniform(0, 100)
        self.counts[f"fate of a {what}"] += 1
        if what == "worker" and machine.workers:
            worker = random.choice(machine.workers)
            self.clockwork.kill(worker.process)
            self.replace(worker)
        elif what == "driver":
            self._kill(machine)
            self.clockwork.at(
                self.clockwork.now + random.uniform(0, 100), lambda: self._start_driver(machine)
            )
        elif what == "machine":
            self._kill(machine)
            self.machines[self.machines.index(machine)] = fresh = self._machine()
            self.clockwork.at(soon, lambda: self._start_driver(fresh))
        elif what == "outage":
            self.is_out = True
            self.clockwork.at(now + random.uniform(1, 150), self._repair)
        self.clockwork.at(now + random.expovariate(1 / 150), self._misfortune)

    def _kill(self, machine: Machine) -> None:
        for worker in machine.workers:
            self.clockwork.kill(worker.process)
        machine.workers = []

    def _repair(self) -> None:
        self.is_out = False


class Worker:
    """Renders what the dispatcher gives it, as ``hallo3 batch`` does with shared jobs."""

    process: Process

    def __init__(self, world: World, machine: Machine, dispatcher: Dispatcher, name: str) -> None:
        self.world, self.machine, self.dispatcher, self.name = world, machine, dispatcher, name
        self._objects = world.make_objects(world.storage, ROOT, sleep=world.clockwork.sleep)
        self._claims = dict[str, Claim]()

    def run(self) -> None:
        while not self.dispatcher.over:
            task = self.dispatcher.next(self.name)
            if self.dispatcher.is_spent(self.name) and task is None:
                self.world.replace(self)
                return
            if task is None:
                self.world.clockwork.sleep(40)
                self.dispatcher.wake()
                continue
            kind = DONE
            try:
                self._render_row(task.payload)
            except BusyError:
                kind = ELSEWHERE
            except OutputError:
                kind = FAILED
            self.dispatcher.finish(self.name, Outcome(kind))

    def _render_row(self, row: str) -> None:
        machine = self.machine
        if row in machine.busy:
            raise BusyError("another process of this machine has it")
        machine.busy.add(row)
        try:
            if row not in self._claims:
                self._claims[row] = self._make_claim(row)
            if (claim := self._claims[row]).acquire():
                self._finish_row(row, claim, machine.disk[row])
        finally:
            machine.busy.discard(row)

    def _finish_row(self, row: str, claim: Claim, disk: dict[int, bytes]) -> None:
        world = self.world
        for index, known in claim.state.segments.items():
            if index not in disk or hash_bytes(disk[index]) != known.hash:
                data = claim.fetch(index, MAX_BYTES)
                demand(data is not None, f"{row}: segment {index} is accepted and not there")
                disk[index] = data or b""
        before = list[bytes]()
        for index in range(world.length):
            known = claim.state.segments.get(index)
            follows = hash_bytes(before[-1])[:8] if before else ""
            if known is None and index in disk and disk[index].decode().split(" ")[2] != follows:
                del disk[index]  # of work that another machine has replaced
            if index not in disk:
                self._wait(claim)
                disk[index] = render(row, index, before, self.machine.place)
            if known is None:
                try:
                    claim.commit(index, disk[index])
                except BusyError:
                    world.counts["refused"] += 1
                    raise
                truth = world.truths[row].segments.get(index)
                demand(truth == (claim.epoch, hash_bytes(disk[index])), f"{row}: {index} was not committed")
            before.append(disk[index])
        path, video = Path(f"{self.machine.name}/{row}"), ",".join(map(hash_bytes, before)).encode()
        world.files[str(path)] = video
        claim.check()
        self._objects.upload(path, f"{VIDEOS}/{row}")
        claim.finish(hash_bytes(video), len(video))

    def _wait(self, claim: Claim) -> None:
        """While a segment is sampled a thread shows signs of life, unless the whole machine stands still."""
        rest, stall = self.world.random.uniform(10, 120), 0.0
        if self.world.is_stormy and self.world.random.random() < 0.1:
            self.world.counts["stalls"] += 1
            stall = self.world.random.uniform(50, 600)
        while rest > 0:
            self.world.clockwork.sleep(min(TERMS.beat, rest) + stall)
            rest, stall = rest - TERMS.beat, 0.0
            try:
                claim.renew()
            except (BusyError, OutputError):  # what is lost shows at the commit
                continue

    def _make_claim(self, row: str) -> Claim:
        world, machine = self.world, self.machine

        class Watched(world.make_claim):  # type: ignore[misc, name-defined]
            def _check_lease(self, asked: float) -> None:
                super()._check_lease(asked)
                world.took_over(row, (asked - machine.offset) / machine.rate)

        return Watched(
            self._objects,
            row,
            machine.name,
            machine.place,
            terms=TERMS,
            clock=lambda: machine.offset + machine.rate * world.clockwork.now,
            make_token=lambda: f"{world.random.getrandbits(64):016x}",
        )


def render(row: str, index: int, before: list[bytes], place: str) -> bytes:
    """A segment depends on the one before and on where it is computed."""
    return f"{row} {index} {hash_bytes(before[-1])[:8] if before else ''} {place}".encode()
