"""Goals for times, and what a result says of them: reached, not reached, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

STEPS = 50
"""Of a segment as the original samples it."""
ORIGINAL_SEGMENTS, OUR_SEGMENTS = 4, 3
"""Of 5 s of speech: the original samples one more and throws it away."""
NOT_MEASURED = "not measured"
MOST = 0.5
"""Of the blocks' bytes: a step that brings more is judged as one whose weights stream."""
Found = Mapping[str, Any]


class Goal(NamedTuple):
    """``of`` takes the figure from a result, or None. ``above``: more is better. ``card``: on which it
    counts; empty for any GPU. The whole model's size is asked for in any case."""

    name: str
    what: str
    must: float
    target: float
    of: Callable[[Found], float | None]
    above: bool = True
    card: str = "H200"


def segment_seconds(found: Found, step: str, decode: str) -> float | None:
    """A segment of 50 steps, as one step and one decode make it."""
    one, other = (
        found.get(part, {}).get(name, {}).get("seconds")
        for part, name in (("step", step), ("decode", decode))
    )
    return None if one is None or other is None else STEPS * one + other


def _gain(found: Found, baseline: str) -> float | None:
    theirs = segment_seconds(found, baseline, "original")
    ours = [segment_seconds(found, best_of(found, "step"), best_of(found, "decode"))]
    known = [seconds for seconds in ours if seconds is not None]
    return theirs / known[0] if theirs is not None and known else None


def best_of(found: Found, part: str) -> str:
    """The name of the fastest row of ours; empty if none was measured."""
    rows = {
        name: row["seconds"]
        for name, row in found.get(part, {}).items()
        if name.startswith("ours") and "seconds" in row
    }
    return min(rows, key=lambda name: rows[name], default="")


def _clip(found: Found) -> float | None:
    gain = _gain(found, "original, torch's choice")
    return None if gain is None else gain * ORIGINAL_SEGMENTS / OUR_SEGMENTS


def _share(found: Found) -> float | None:
    return found.get("step", {}).get(best_of(found, "step"), {}).get("share")


def _decode(found: Found) -> float | None:
    return found.get("decode", {}).get(best_of(found, "decode"), {}).get("seconds")


def _slowdown(found: Found) -> float | None:
    """The worst of the ceilings under which more than half of the blocks stream."""
    rows = found.get("ceilings", {}).values()
    known = [row["slowdown"] for row in rows if "slowdown" in row and row["streamed_share"] > MOST]
    return max(known, default=None)


def _smallest_resident(found: Found) -> float | None:
    """GB of the smallest ceiling under which nothing streamed in a step."""
    rows = found.get("ceilings", {}).items()
    known = [float(name.split()[0]) for name, row in rows if "seconds" in row and row["streamed_gb"] < 0.01]
    return min(known, default=None)


def _same_attention(found: Found) -> float | None:
    return _gain(found, "original, same attention")


def _as_it_ships(found: Found) -> float | None:
    return _gain(found, "original, torch's choice")


GOALS = (
    Goal("G3", "segment, original over ours, same attention", 1.15, 1.25, _same_attention),
    Goal("G4", "segment, original over ours, as it ships", 1.2, 1.5, _as_it_ships),
    Goal("G5", "5 s of speech, original over ours", 1.5, 1.9, _clip),
    Goal("G6", "share of the measured matrix rate", 0.55, 0.62, _share),
    Goal("G7", "decode of a segment, seconds", 5.0, 2.5, _decode, above=False),
    Goal("G10", "a step whose weights stream, over one whose do not", 1.15, 1.05, _slowdown, False, ""),
    Goal("G11", "GB in which a step streams nothing", 24, 16, _smallest_resident, False, ""),
)


def judged(found: Found) -> dict[str, dict[str, Any]]:
    """Every goal with its verdict. G3 to G5 are reckoned of the median step and decode."""
    return {goal.name: _judged(goal, found) for goal in GOALS}


def _judged(goal: Goal, found: Found) -> dict[str, Any]:
    measured = found["sizes"]["full_size"] and "cuda" in found["machine"]
    figure = goal.of(found) if measured else None
    return {
        "what": goal.what,
        "must": goal.must,
        "target": goal.target,
        "figure": figure,
        "verdict": _verdict(goal, figure, found["machine"]["device"]),
    }


def _verdict(goal: Goal, figure: float | None, device: str) -> str:
    if figure is None:
        return NOT_MEASURED
    if goal.card and goal.card not in device.split():
        return f"{NOT_MEASURED} on an {goal.card}"
    reached = [figure >= limit if goal.above else figure <= limit for limit in (goal.must, goal.target)]
    return "reached" if reached[1] else "must reached, target not reached" if reached[0] else "not reached"
