"""Two hundred rows on two workers that are killed at fifty random moments, and their driver at twenty: none
is lost, none is rendered twice. ``make soak``."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from soak.machine import keep
from support.fleet_kills import kill_fleet

pytestmark = pytest.mark.soak
SEED = 22


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_fifty_workers_and_twenty_drivers_are_killed(engine: str, tmp_path: Path, nano_folder: Path) -> None:
    if engine == "ray" and find_spec("ray") is None:
        pytest.skip("needs ray")
    words, drivers = (
        (["--ray"] if engine == "ray" else []) + ["--workers", "2"],
        20 if engine == "processes" else 3,
    )
    counts = kill_fleet(tmp_path, nano_folder, words, rows=200, kills=50, driver_kills=drivers, seed=SEED)
    keep(f"soak_fleet_{engine}.json", {"seed": SEED, **counts})
    assert (counts["workers killed"], counts["drivers killed"]) == (50, drivers)
