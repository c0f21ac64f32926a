"""Workers that are actors of Ray, on this computer or on a cluster. Nothing else here knows Ray."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from typing import Any

from ..errors import DependencyError, InputError
from ..messages import redirect_messages
from .dispatch import Outcome, Task
from .workers import DIED, ENDED, NOTE, PROGRESS, Event, OpenRender, render_task

OBJECT_STORE_BYTES = 100 << 20
"""Of a Ray that is started here: rows and outcomes are small."""
LOOK_SECONDS = 2.0
"""Between two looks at how far a worker is."""
CONCURRENCY = 2
"""A row, and a look at it."""


class Actor:
    """A worker's process."""

    def __init__(self, open_render: OpenRender) -> None:
        self._render = open_render(0)
        self._share, self._notes = 0.0, list[str]()

    def run(self, task: Task) -> Outcome:
        self._share = 0.0

        def follow(share: float) -> None:
            self._share = share

        with redirect_messages(self._notes.append):
            return render_task(self._render, task, follow)

    def look(self) -> tuple[float, list[str]]:
        """How much of the task is done, and messages since the last look."""
        notes, self._notes[:] = self._notes[:], []
        return self._share, notes


class RayWorkers:
    """``address`` is of a running Ray, ``auto`` for the one of this computer; "" starts one, which ends with
    this. A worker has ``gpu_share`` of a GPU, if there is one, and its part of the processors. Without a
    ``count`` there are as many workers as fit the GPUs, or one per node.

    Raises ``DependencyError`` without Ray, ``InputError`` for an address where none runs.
    """

    def __init__(self, open_render: OpenRender, address: str, *, count: int | None, gpu_share: float) -> None:
        try:
            self._ray: Any = import_module("ray")
            self._errors: Any = import_module("ray.exceptions")
        except ImportError as error:
            raise DependencyError(
                "Ray is not installed.",
                found="--ray",
                expected="the package ray",
                fix='pip install "hallo3[ray]", or use --workers N: processes on this computer',
            ) from error
        local = {} if address else {"object_store_memory": OBJECT_STORE_BYTES}
        try:
            self._ray.init(address=address or "local", log_to_driver=False, logging_level="error", **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                "Ray cannot be reached.",
                found=f"--ray {address}: {(str(error).splitlines() or [''])[0]}",
                expected="the address of a running Ray, such as 10.0.0.1:6379 or auto",
                fix="start one with `ray start --head`, or give --ray without an address",
            ) from error
        has: dict[str, float] = self._ray.cluster_resources()
        gpus = has.get("GPU", 0.0)
        self.count = count or max(1, int(gpus / gpu_share) if gpus else len(self._ray.nodes()))
        cpus = max(1, int(has.get("CPU", 1.0) // self.count))
        # Replaced here: an actor that Ray restarts refuses tasks meanwhile, as if they had killed it
        options = {"num_cpus": cpus, "max_restarts": 0, "max_concurrency": CONCURRENCY}
        self._actor = self._ray.remote(**options | ({"num_gpus": gpu_share} if gpus else {}))(Actor)
        self._open, self._started, self._looked = open_render, 0, 0.0
        self._actors = dict[str, Any]()
        self._running, self._looks = dict[Any, str](), dict[Any, str]()

    def start(self) -> str:
        self._started += 1
        name = f"worker {self._started}"
        self._actors[name] = self._actor.options(name=f"hallo3 {name}").remote(self._open)
        return name

    def submit(self, worker: str, task: Task) -> None:
        self._running[self._actors[worker].run.remote(task)] = worker

    def poll(self, seconds: float) -> list[Event]:
        if not self._running:
            time.sleep(seconds)
            return []
        events = self._look() if time.monotonic() - self._looked > LOOK_SECONDS else []
        found, _ = self._ray.wait([*self._running], num_returns=1, timeout=seconds)
        if found:
            found, _ = self._ray.wait([*self._running], num_returns=len(self._running), timeout=0)
        for done in found:
            worker = self._running.pop(done)
            try:
                events.append(Event(worker=worker, kind=ENDED, outcome=self._ray.get(done)))
            except self._errors.RayError as error:
                reason = (str(error).splitlines() or [""])[0]
                events.append(Event(worker=worker, kind=DIED, text=f"its worker died: {reason}"))
                self.stop(worker)
        return events

    def stop(self, worker: str) -> None:
        self._ray.kill(self._actors.pop(worker))

    def close(self) -> None:
        for worker in [*self._actors]:
            self.stop(worker)
        self._ray.shutdown()

    def _look(self) -> list[Event]:
        events, self._looked = list[Event](), time.monotonic()
        if self._looks:
            found, _ = self._ray.wait([*self._looks], num_returns=len(self._looks), timeout=0)
            for done in found:
                worker = self._looks.pop(done)
                try:
                    share, notes = self._ray.get(done)
                except self._errors.RayError:  # its task says so too
                    continue
                about = Event(worker=worker, kind=NOTE)
                events += [replace(about, text=note) for note in notes]
                events.append(replace(about, kind=PROGRESS, share=share))
        for worker in {*self._running.values()} - {*self._looks.values()}:
            self._looks[self._actors[worker].look.remote()] = worker
        return events
