"""A worker's process: it renders, is stopped, and is started again after a crash."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest

from hallo3.errors import InputError
from hallo3.fleet.dispatch import DONE, FAILED, REFUSED, STOPPED, Task
from hallo3.fleet.workers import DIED
from hallo3.progress import FollowShare
from hallo3.server import worker as module
from hallo3.server.worker import LATE, Worker, describe

pytestmark = pytest.mark.any_message
LONG = 100.0


def open_render(place: int) -> Any:
    assert place == 0
    return render


def render(task: Task, follow: FollowShare) -> str:
    """What each test asks for."""
    while task.payload == "hang":
        time.sleep(0.01)
    follow(0.5)
    if task.payload == "refuse":
        raise InputError("No.", found="this", fix="do: that")
    if task.payload == "fail":
        raise ValueError("a fault")
    if task.payload == "memory" and not task.smaller:
        raise MemoryError
    if task.payload == "crash":
        os._exit(9)
    while task.payload == "wait":
        follow(time.monotonic())
    return str(os.getpid())


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker(open_render)
    yield made
    made.close()


def test_runs_end_as_they_do(worker: Worker) -> None:
    shares, never = list[float](), threading.Event()

    def run(options: str) -> Any:
        return worker.run(options, shares.append, never, LONG)

    assert (first := run("")).kind == DONE
    assert run("").message == first.message, "the same process"
    assert run("memory").kind == DONE, "once more, with less"
    refused = run("refuse")
    assert refused.kind == REFUSED
    assert {**describe(refused.message), "message": ""} == {
        "message": "", "headline": "No.", "found": "this", "fix": "do: that",
    }  # fmt: skip
    failed = run("fail")
    assert (failed.kind, failed.message) == (FAILED, "ValueError: a fault")
    crashed = run("crash")
    assert crashed.kind == DIED
    assert "code 9" in crashed.message
    assert (again := run("")).kind == DONE
    assert again.message != first.message, "a new process"
    assert shares[:2] == [0.5, 0.5]


def test_a_run_is_stopped_by_a_client_a_limit_and_the_end_of_the_server(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, never = threading.Event(), threading.Event()
    first = worker.run("", lambda _: None, never, LONG)
    assert worker.run("wait", lambda _: stop.set(), stop, LONG).kind == STOPPED
    late = worker.run("wait", lambda _: None, never, 0.0)
    assert (late.kind, describe(late.message)["headline"]) == (LATE, "The video took too long.")
    assert worker.run("", lambda _: None, never, LONG) == replace(first, seconds=ANY), "it kept its models"
    monkeypatch.setattr(module, "STOP_SECONDS", 0.1)
    assert worker.run("hang", lambda _: None, stop, LONG).kind == STOPPED
    assert (again := worker.run("", lambda _: None, never, LONG)).kind == DONE
    assert again.message != first.message, "a new process"
    assert worker.run("wait", lambda _: worker.interrupt(), never, LONG).kind == STOPPED
    assert worker.run("", lambda _: None, never, LONG).kind == STOPPED, "from now on"
