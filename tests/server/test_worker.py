"""A worker's process: it renders, stops, is killed if it does not, and is started again after a crash."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hallo3.errors import InputError
from hallo3.server import worker as module
from hallo3.server.worker import CRASHED, DONE, FAILED, LATE, REFUSED, STOPPED, Worker

LONG = 100.0


def render(options: str, follow: Callable[[float], object]) -> None:
    """What each test asks for."""
    follow(0.5)
    if options == "refuse":
        raise InputError("No.", found="this")
    if options == "fail":
        raise ValueError("a fault")
    if options == "crash":
        os._exit(9)
    while options == "wait":
        follow(0.5)
        time.sleep(0.001)
    if options == "hang":
        time.sleep(1000)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker(render)
    yield made
    made.close()


def test_runs_end_as_they_do(worker: Worker) -> None:
    shares, never = list[float](), threading.Event()

    def run(options: str) -> Any:
        return worker.run(options, shares.append, never, LONG)

    assert run("").kind == DONE
    process = worker._process
    refused = run("refuse")
    assert (refused.kind, refused.error["headline"], refused.error["found"]) == (REFUSED, "No.", "this")
    failed = run("fail")
    assert (failed.kind, failed.error["message"]) == (FAILED, "ValueError: a fault")
    assert worker._process is process, "the same process"
    crashed = run("crash")
    assert (crashed.kind, crashed.error["found"]) == (CRASHED, "exit code 9")
    assert run("").kind == DONE, "in a new process"
    assert shares == [0.5] * 5


def test_a_run_is_stopped_and_its_process_stays(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, never = threading.Event(), threading.Event()
    assert worker.run("", lambda _: None, never, LONG).kind == DONE
    process = worker._process
    assert worker.run("wait", lambda _: stop.set(), stop, LONG).kind == STOPPED
    late = worker.run("wait", lambda _: None, never, 0.05)
    assert (late.kind, late.error["headline"]) == (LATE, "The video took too long.")
    assert worker.run("", lambda _: None, never, LONG).kind == DONE
    assert worker._process is process
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.05)
    assert worker.run("hang", lambda _: None, stop, LONG).kind == STOPPED
    assert not process.is_alive()
    ending = threading.Timer(0.2, worker.interrupt)
    ending.start()
    assert worker.run("hang", lambda _: None, never, LONG).kind == STOPPED, "the server ends"
