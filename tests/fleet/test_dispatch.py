"""Laws of the dispatcher, on random tables, workers and accidents; and what a step of it takes."""

import random
import time
from collections import Counter, defaultdict

import pytest

from hallo3.fleet.dispatch import (
    DEATHS,
    DONE,
    ELSEWHERE,
    FAILED,
    FINAL,
    OUT_OF_MEMORY,
    PARKED,
    REFUSED,
    TRIES,
    WORKER_FAILURES,
    Dispatcher,
    Outcome,
    Task,
)


def make(*rows: tuple[str, float]) -> list[Task]:
    """Tasks of these groups (``model/identity``) and costs."""
    return [
        Task(number=n, key=str(n), group=tuple(group.split("/")), cost=cost, payload=None)
        for n, (group, cost) in enumerate(rows, 1)
    ]


def order(dispatcher: Dispatcher, *workers: str) -> dict[str, list[int]]:
    """Which rows each worker gets if all take as long as they cost."""
    free, got = dict.fromkeys(workers, 0.0), {worker: list[int]() for worker in workers}
    while free:
        worker = min(free, key=free.__getitem__)
        if (task := dispatcher.next(worker)) is None:
            del free[worker]
            continue
        got[worker].append(task.number)
        free[worker] += task.cost
        dispatcher.finish(worker, Outcome(DONE))
    return got


def test_a_worker_stays_with_what_it_has_loaded_and_long_rows_come_first() -> None:
    rows = [("big/a", 1.0), ("big/b", 2.0), ("small/c", 1.0), ("big/a", 4.0), ("big/b", 3.0), ("big/a", 2.0)]
    assert order(Dispatcher(make(*rows)), "one")["one"] == [4, 6, 1, 5, 2, 3]
    two = order(Dispatcher(make(*rows)), "one", "two")
    assert two["one"][0] == 4
    assert two["two"][:2] == [5, 2], (
        "the second identity of the larger model, not the other half of the first"
    )
    assert sorted(two["one"] + two["two"]) == [1, 2, 3, 4, 5, 6]


def test_the_longest_work_is_not_left_for_the_end() -> None:
    rows = [("m/hour", 60.0), *((f"m/{n}", 1.0) for n in range(100))]
    dispatcher = Dispatcher(make(*rows))
    got = order(dispatcher, "one", "two")
    assert 1 in (got["one"][0], got["two"][0])
    assert abs(len(got["one"]) - len(got["two"])) == 59, "both end at the same time"


@pytest.mark.parametrize(
    ("kind", "tries", "end"), [(REFUSED, 1, REFUSED), (FAILED, TRIES, FAILED), (OUT_OF_MEMORY, 2, FAILED)]
)
def test_how_often_a_row_is_tried(kind: str, tries: int, end: str) -> None:
    dispatcher = Dispatcher(make(("m", 1.0)))
    smaller = list[bool]()
    while (task := dispatcher.next("one")) is not None:
        smaller.append(task.smaller)
        state = dispatcher.finish("one", Outcome(kind, f"{len(smaller)}"))
    assert (len(smaller), state.kind, state.message) == (tries, end, str(tries))
    assert smaller == [False, kind == OUT_OF_MEMORY, False][:tries]
    assert dispatcher.over


def test_a_row_that_failed_goes_to_another_worker_after_the_others() -> None:
    dispatcher = Dispatcher(make(("m", 3.0), ("m", 2.0), ("m", 1.0)))
    assert [dispatcher.next("one").number, dispatcher.next("two").number] == [1, 2]  # type: ignore[union-attr]
    dispatcher.finish("one", Outcome(FAILED))
    third = dispatcher.next("one")
    assert third is not None
    assert third.number == 3
    dispatcher.finish("one", Outcome(DONE))
    assert dispatcher.next("one") is None
    assert dispatcher.is_spent("one"), "a new worker takes its place"
    dispatcher.finish("two", Outcome(DONE))
    again = dispatcher.next("two")
    assert again is not None
    assert again.number == 1
    assert not dispatcher.is_spent("one"), "nothing is left"


def test_a_worker_that_fails_three_rows_gets_no_more() -> None:
    dispatcher = Dispatcher(make(*[("m", 1.0)] * 9))
    for _ in range(WORKER_FAILURES):
        assert dispatcher.next("one") is not None
        assert not dispatcher.is_spent("one")
        dispatcher.finish("one", Outcome(FAILED))
    assert dispatcher.next("one") is None
    assert dispatcher.is_spent("one")
    dispatcher.lose("one")
    assert order(dispatcher, "two")["two"] == [4, 5, 6, 7, 8, 9, 1, 2, 3]


def test_a_row_that_takes_its_workers_with_it_is_parked() -> None:
    dispatcher = Dispatcher(make(("m", 2.0), ("m", 1.0)))
    for number in range(DEATHS):
        while (task := dispatcher.next(f"worker {number}")) is not None and task.number != 1:
            dispatcher.finish(f"worker {number}", Outcome(DONE))
        state = dispatcher.lose(f"worker {number}", "killed by signal 11")
    assert state is not None
    assert (state.kind, state.message, dispatcher.over) == (PARKED, "killed by signal 11", True)
    assert dispatcher.lose("worker 0") is None


def test_what_another_run_has_comes_back() -> None:
    dispatcher = Dispatcher(make(("m", 1.0)))
    for _ in range(20):
        assert dispatcher.next("one") is not None
        dispatcher.finish("one", Outcome(ELSEWHERE))
        assert dispatcher.next("one") is None
        assert not dispatcher.over
        assert not dispatcher.is_spent("one")
        dispatcher.wake()
    assert order(dispatcher, "one")["one"] == [1]


def test_a_worker_has_one_task_at_a_time() -> None:
    dispatcher = Dispatcher(make(("m", 1.0), ("m", 1.0)))
    dispatcher.next("one")
    with pytest.raises(ValueError, match="has a task"):
        dispatcher.next("one")
    dispatcher.finish("one", Outcome(DONE))
    with pytest.raises(ValueError, match="has no task"):
        dispatcher.finish("one", Outcome(DONE))


@pytest.mark.parametrize("seed", range(60))
def test_every_row_ends_once_whatever_happens(seed: int) -> None:
    """Poison rows, failing rows, bad workers, deaths at any moment."""
    draw = random.Random(seed)
    groups = [f"{draw.choice('ab')}/{draw.choice('xyz')}" for _ in range(draw.randint(1, 40))]
    dispatcher = Dispatcher(make(*((group, draw.choice((0.5, 1.0, 7.0))) for group in groups)))
    poison = {n for n in dispatcher.states if draw.random() < 0.05}
    refused = {n for n in dispatcher.states if draw.random() < 0.1} - poison
    names, workers, running = iter(f"worker {n}" for n in range(10_000)), list[str](), dict[str, Task]()
    tried, ended = defaultdict[int, Counter[str]](Counter), Counter[int]()
    for _ in range(20_000):
        if dispatcher.over:
            break
        while len(workers) < 3:
            workers.append(next(names))
        worker = draw.choice(workers)
        if worker not in running:
            if (task := dispatcher.next(worker)) is not None:
                assert task.number not in {other.number for other in running.values()}
                assert ended[task.number] == 0
                running[worker] = task
            elif dispatcher.is_spent(worker):
                workers.remove(worker)
                dispatcher.lose(worker)
            elif not running:
                dispatcher.wake()
            continue
        task = running.pop(worker)
        if task.number in poison or draw.random() < 0.02:
            workers.remove(worker)
            state = dispatcher.lose(worker)
            tried[task.number]["deaths"] += 1
        else:
            kinds = [DONE] * 6 + [FAILED, OUT_OF_MEMORY, ELSEWHERE]
            kind = REFUSED if task.number in refused else draw.choice(kinds)
            state = dispatcher.finish(worker, Outcome(kind))
            tried[task.number][kind] += 1
        assert state is not None
        ended[task.number] += state.kind in FINAL
    assert dispatcher.over
    assert set(ended) == set(dispatcher.states)
    assert set(ended.values()) == {1}
    assert sum(dispatcher.counts.values()) == len(groups)
    for number, state in dispatcher.states.items():
        counts = tried[number]
        assert counts[FAILED] <= TRIES
        assert counts[OUT_OF_MEMORY] <= 2
        assert counts["deaths"] <= DEATHS
        assert counts[REFUSED] == (state.kind == REFUSED)
        assert counts[DONE] == (state.kind == DONE)
        assert (state.kind == PARKED) == (counts["deaths"] == DEATHS)


def test_a_step_takes_no_time_in_a_table_of_ten_thousand_rows() -> None:
    draw = random.Random(0)
    rows = [(f"{n % 3}/{draw.randrange(4000)}", draw.random()) for n in range(10_000)]
    dispatcher, started = Dispatcher(make(*rows)), time.process_time()
    workers = [f"worker {n}" for n in range(64)]
    for worker in workers:
        dispatcher.next(worker)
    while not dispatcher.over:
        for worker in workers:
            if dispatcher.counts["running"] and dispatcher._workers[worker].task is not None:
                dispatcher.finish(worker, Outcome(FAILED if draw.random() < 0.001 else DONE))
            dispatcher.next(worker)
    assert (time.process_time() - started) / len(rows) < 0.002
