"""Rows for workers' processes that start in a moment: each is a file, written once, in a locked folder."""

import os
import time
from pathlib import Path
from typing import Any

from hallo3.errors import InputError
from hallo3.fleet.dispatch import Dispatcher, Task
from hallo3.fleet.workers import Processes, Render, run_tasks
from hallo3.storage.files import write_atomic
from hallo3.storage.lock import lock_folder

POISON, REFUSED, FAILING = "poison", "refused", "failing"


def open_render(place: int) -> Render:
    return lambda task, report: render(task, place, report)


def open_nothing(place: int) -> Render:
    return lambda task, _: f"{task.key} at {place}"


def die(place: int) -> Render:
    os._exit(5 + place)


def render(task: Task, place: int, report: Any) -> str:
    folder = Path(task.payload) / task.key
    folder.mkdir(exist_ok=True)
    with lock_folder(folder, "this row"):
        report(0.5)
        time.sleep(0.02)
        kind = task.group[0]
        if kind == POISON:
            os._exit(7)
        if kind == REFUSED:
            raise InputError("No.")
        if kind == FAILING:
            raise RuntimeError("it fails")
        if not (folder / "done").exists():
            with (folder / "log").open("a") as log:
                log.write(f"{os.getpid()}\n")
            write_atomic(folder / "done", [task.key.encode()])
    return f"{task.key} at {place}"


def tasks(folder: Path, rows: list[str]) -> list[Task]:
    return [
        Task(number=n, key=f"row{n}", group=(kind,), cost=1.0, payload=str(folder))
        for n, kind in enumerate(rows, 1)
    ]


def drive(folder: str, rows: int) -> bool:
    """A whole run, in a process that a test kills."""
    dispatcher = Dispatcher(tasks(Path(folder), ["good"] * rows))
    for _ in run_tasks(dispatcher, Processes(open_render), 2):
        pass
    return dispatcher.counts["done"] == rows
