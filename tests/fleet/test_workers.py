"""Workers in processes: killed at random moments, with poison rows, and with a driver that is killed."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import REPOSITORY
from hallo3.errors import OutputError
from hallo3.fleet import workers as module
from hallo3.fleet.dispatch import DONE, FAILED, PARKED, REFUSED, WAITING, Dispatcher, Task
from hallo3.fleet.ledger import Ledger
from hallo3.fleet.workers import BEGAN, DIED, InProcess, Processes, Render, run_tasks
from support import fleet_rows


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAKE_SECONDS", 0.1)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def finished(folder: Path) -> dict[str, int]:
    """How often each row was written."""
    return {path.parent.name: len(path.read_text().split()) for path in folder.glob("*/log")}


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_rows_survive_workers_that_are_killed(tmp_path: Path) -> None:
    rows = ["good"] * 30 + [fleet_rows.POISON, fleet_rows.REFUSED, fleet_rows.FAILING]
    dispatcher, pool = Dispatcher(fleet_rows.tasks(tmp_path, rows)), Processes(fleet_rows.open_render)
    draw, kills, names = random.Random(3), 0, set[str]()
    for event in run_tasks(dispatcher, pool, 2):
        names.add(event.worker)
        if event.kind != BEGAN:
            continue
        pid = pool._workers[event.worker][1].pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)  # Ctrl-C, also while it is started, is for the driver
        if kills < 4 and draw.random() < 0.2:
            os.kill(pid, signal.SIGKILL)
            kills += 1
    kinds = [state.kind for state in dispatcher.states.values()]
    assert kinds == [DONE] * 30 + [PARKED, REFUSED, FAILED]
    assert kills == 4
    assert len(names) >= 2 + kills, "each that died was replaced"
    assert finished(tmp_path) == {f"row{n}": 1 for n in range(1, 31)}
    assert dispatcher.states[31].message == "its worker ended with code 7"
    assert dispatcher.states[33].message == "RuntimeError: it fails"


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_driver_that_is_killed_leaves_rows_for_the_next(tmp_path: Path) -> None:
    call = f"from support.fleet_rows import drive; assert drive({str(tmp_path)!r}, 25)"
    driver = subprocess.Popen([sys.executable, "-c", call])
    until = time.monotonic() + 60
    while len(finished(tmp_path)) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    dispatcher = Dispatcher(fleet_rows.tasks(tmp_path, ["good"] * 25))
    for _ in run_tasks(dispatcher, InProcess(fleet_rows.open_render), 1):
        pass
    assert dispatcher.counts[DONE] == 25
    assert finished(tmp_path) == {f"row{n}": 1 for n in range(1, 26)}


def test_two_runs_share_a_table(tmp_path: Path) -> None:
    """The second finds rows in the first's hands and comes back to them."""
    first, second = (Dispatcher(fleet_rows.tasks(tmp_path, ["good"] * 8)) for _ in range(2))
    other = run_tasks(second, InProcess(fleet_rows.open_render), 1)
    for _ in run_tasks(first, Processes(fleet_rows.open_render), 1):
        next(other, None)
    for _ in other:
        pass
    assert first.counts[DONE] == second.counts[DONE] == 8
    assert finished(tmp_path) == {f"row{n}": 1 for n in range(1, 9)}


def test_workers_that_cannot_start_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DEATHS", 3)
    dispatcher = Dispatcher(fleet_rows.tasks(tmp_path, ["good"] * 9))
    with pytest.raises(OutputError, match="code 5"):
        for _ in run_tasks(dispatcher, Processes(fleet_rows.die), 1):
            pass


def test_a_worker_that_fails_three_rows_is_replaced_here_too(tmp_path: Path) -> None:
    opened = list[int]()

    def open_render(place: int) -> Render:
        opened.append(place)

        def render(task: Task, report: object) -> str:
            del report
            if task.number < 4 and len(opened) == 1:
                raise OSError("bad worker")
            return ""

        return render

    dispatcher = Dispatcher(fleet_rows.tasks(tmp_path, ["good"] * 6))
    assert DIED not in [event.kind for event in run_tasks(dispatcher, InProcess(open_render), 1)]
    assert (opened, dispatcher.counts[DONE]) == ([0, 0], 6)


class Disk:
    """A row needs space; ``free`` says when there is some."""

    def __init__(self, free: Callable[[int], bool]) -> None:
        self.tries, self._free = 0, free

    def __call__(self, place: int) -> Render:
        del place
        return self._render

    def _render(self, task: Task, report: object) -> str:
        del task, report
        self.tries += 1
        if not self._free(self.tries):
            raise OSError(errno.ENOSPC, "No space left on device")
        return ""


def test_rows_wait_while_a_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row fails of it, however often it is tried; a disk that stays full ends the run."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    disk, dispatcher = Disk(lambda tries: tries > 12), Dispatcher(fleet_rows.tasks(Path(), ["good"] * 3))
    workers = {event.worker for event in run_tasks(dispatcher, InProcess(disk), 1)}
    assert (disk.tries, dispatcher.counts[DONE], len(workers)) == (15, 3, 1)
    monkeypatch.setattr(module, "MAX_BLOCKED_SECONDS", 0.3)
    dispatcher = Dispatcher(fleet_rows.tasks(Path(), ["good"] * 3))
    with pytest.raises(OutputError, match="cannot be written"):
        for _ in run_tasks(dispatcher, InProcess(Disk(lambda tries: tries == 1)), 1):
            pass
    assert (dispatcher.counts[DONE], dispatcher.counts[WAITING]) == (1, 2)


def test_a_ledger_only_saves_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "batch.jsonl"
    ledger = Ledger(path)
    ledger.note("a", [[1], "x"])
    ledger.note("b", [[2]])
    ledger.note("a", [[3]])
    again = Ledger(path)
    assert [again.knows("a", [[1], "x"]), again.knows("a", [[3]]), again.knows("b", [[2]])] == [
        False,
        True,
        True,
    ]
    for cut in range(0, path.stat().st_size, 7):
        path.write_bytes(path.read_bytes()[:-7])
        Ledger(path).note("c", [cut])
        assert Ledger(path).knows("c", [cut])
    for number in range(300):
        ledger.note("a", [number])
    assert Ledger(path).knows("a", [299])
    assert len(path.read_bytes().splitlines()) < 10
    path.unlink()
    (tmp_path / "other").write_bytes(b"mine")
    path.symlink_to(tmp_path / "other")
    Ledger(path).note("d", [])
    assert (tmp_path / "other").read_bytes() == b"mine"
