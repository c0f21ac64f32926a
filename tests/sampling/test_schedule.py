"""The schedule's own numbers, recorded: equal to the last bit on every processor (facts 17)."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from hallo3.sampling.samplers import solver_coefficients
from hallo3.sampling.schedule import make_schedule

RECORDED = Path(__file__).resolve().parents[1] / "data" / "schedule.json"
STEPS = (1, 2, 3, 8, 20, 30, 50, 333, 1000)
SHOWN = 8
"""Step count whose numbers are recorded one by one; of the others, a hash."""


def numbers(steps: int) -> list[list[str]]:
    """A row per step, in hexadecimal; the last step has no multipliers."""
    plan = make_schedule(steps)
    used = [[float(value).hex() for value in row] for row in solver_coefficients(plan)[:-1]]
    rows = [[float(n).hex() for n in (s.timestep, s.alpha, s.next_alpha, s.table_alpha)] for s in plan.steps]
    return [row + multipliers for row, multipliers in zip(rows, [*used, []], strict=True)]


def record() -> dict[str, Any]:
    hashes = {str(n): sha256(json.dumps(numbers(n)).encode()).hexdigest() for n in STEPS}
    return {"hashes": hashes, f"{SHOWN} steps": numbers(SHOWN)}


def test_every_number_is_the_recorded_one() -> None:
    assert record() == json.loads(RECORDED.read_text())
