"""A hundred thousand schedules of machines that share jobs. ``make soak``."""

import time

import pytest

from fleet.test_simulator import run_seeds
from soak.machine import keep

pytestmark = pytest.mark.soak
SCHEDULES = 100_000


def test_a_hundred_thousand_schedules_keep_every_promise() -> None:
    started = time.process_time()
    counts = run_seeds(range(SCHEDULES))
    seconds = round(time.process_time() - started, 1)
    keep("soak_schedules.json", {"schedules": SCHEDULES, **dict(sorted(counts.items())), "seconds": seconds})
