"""Goals of the released model on a GPU: figures of a result of ``times``, and their verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.report import RESULTS_DIR, Result, Scenario
from benchmarks.streamed import RESIDENT, Row

CARDS = ("H100", "H200")
TORCH_CHOICE, SAME = "original, torch's choice", "original, same attention"


def our_rows(result: Mapping[str, Any], part: str) -> dict[str, Row]:
    rows = result.get(part, {}).items()
    return {name: row for name, row in rows if name.startswith("ours") and "seconds" in row}


SEGMENT_STEPS = 50
"""As the original samples."""
SEGMENTS_RATIO = 4 / 3
"""Of 5 s of speech: the original samples a fourth segment and throws it away."""


ANY = frozenset[str]()


class Goal(NamedTuple):
    """``cards`` are the GPUs that it is for; none for any."""

    name: str
    what: str
    must: float
    target: float
    more_is_better: bool = True
    cards: frozenset[str] = frozenset(CARDS)


GOALS = (
    Goal("G3", "segment, original over ours, same attention", 1.15, 1.25),
    Goal("G4", "segment, original over ours, as it ships", 1.2, 1.5),
    Goal("G5", "5 s of speech, original over ours", 1.5, 1.9),
    Goal("G6", "share of the measured matrix rate", 0.55, 0.62),
    Goal("G7", "decode of a segment, seconds", 5.0, 2.5, False),
    Goal("G8", "segment, original as it ships over the fast preset", 4, 6),
    Goal("G9", "GB in which a step and a decode run", 12, 6, False, ANY),
    Goal("G10", "a step with streamed weights over one with resident ones", 1.15, 1.05, False, ANY),
    Goal("G11", "GB in which a step streams nothing", 24, 16, False, ANY),
)


STREAMED = ("G9", "G10", "G11")
"""Measured with all layers, on a card too small to hold them as well."""


def reckon(result: Result) -> dict[str, float | None]:
    """Figures of goals: gains are of a segment's seconds, from one step and one decode; G10 is the worst of
    the limits under which more than half of the blocks stream, G11 the smallest under which none does."""
    rows = {
        (part, name): row["seconds"]
        for part in ("step", "decode")
        for name, row in result.get(part, {}).items()
        if "seconds" in row
    }
    step = min(our_rows(result, "step").values(), key=lambda row: row["seconds"], default={})
    decode = min((row["seconds"] for row in our_rows(result, "decode").values()), default=None)
    gains: dict[str, float] = {}
    theirs = 0.0  # as it ships
    for name in (SAME, TORCH_CHOICE):
        if {("step", name), ("decode", "original")} <= rows.keys():
            theirs = SEGMENT_STEPS * rows["step", name] + rows["decode", "original"]
            if step and decode:
                gains[name] = theirs / (SEGMENT_STEPS * step["seconds"] + decode)
        elif name == TORCH_CHOICE:
            theirs = 0.0
    quick = min((row["seconds"] for row in result.get("fast", {}).values() if "seconds" in row), default=0.0)
    limits = {
        name: row for name, row in result.get("ceilings", {}).items() if "seconds" in row and name != RESIDENT
    }
    slowdowns = [
        row["slowdown"] for row in limits.values() if "slowdown" in row and row["streamed_share"] > 0.5
    ]
    running = [float(name.split()[0]) for name, row in limits.items() if isinstance(row.get("decode"), float)]
    free = [float(name.split()[0]) for name, row in limits.items() if row["streamed_gb"] < 0.01]
    return {
        "G3": gains.get(SAME),
        "G4": gains.get(TORCH_CHOICE),
        "G5": gains[TORCH_CHOICE] * SEGMENTS_RATIO if TORCH_CHOICE in gains else None,
        "G6": step.get("share"),
        "G7": decode,
        "G8": theirs / quick if theirs and quick else None,
        "G9": min(running, default=None),
        "G10": max(slowdowns, default=None),
        "G11": min(free, default=None),
    }


def judge(goal: Goal, result: Result) -> Row:
    """The goal's figure, its card and its verdict; a figure is claimed only for the released size on a
    GPU."""
    machine, sizes = result["machine"], result["sizes"]
    whole = sizes["full_size"] or (goal.name in STREAMED and sizes.get("whole_when_streamed", False))
    figure = reckon(result)[goal.name] if whole and "cuda" in machine else None
    card = find_card(machine["device"])
    if figure is None:
        verdict = "not measured"
    elif goal.cards and card not in goal.cards:
        verdict = f"not measured on an {' or '.join(sorted(goal.cards))}"
    else:
        sign = 1 if goal.more_is_better else -1
        must, target = (sign * figure >= sign * limit for limit in (goal.must, goal.target))
        verdict = "reached" if target else "must reached, target not reached" if must else "not reached"
    limits = {"must": goal.must, "target": goal.target}
    return {"what": goal.what, **limits, "figure": figure, "card": card, "verdict": verdict}


OPEN = "open"


def read_results() -> list[Result]:
    """Of GPUs, as ``times`` kept them."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS_DIR.glob("*.json"))]
    return [result for result in found if "cuda" in result["machine"] and "goals" in result]


def format_goals(results: list[Result]) -> str:
    """A table in Markdown: the best figure of every card, "open" where none was measured. G2 is counted."""
    lines = [f"| goal | what | must | target | {' | '.join(CARDS)} | other GPUs |", "|---" * 7 + "|"]
    for goal in GOALS:
        cells: list[str] = []
        for card in (*CARDS, ""):
            rows = [judge(goal, each) for each in results if find_card(each["machine"]["device"]) == card]
            figures = [row["figure"] for row in rows if row["figure"] is not None]
            best = (max if goal.more_is_better else min)(figures) if figures else None
            cells.append(OPEN if best is None else f"{best:.3g}")
        lines.append(f"| {goal.name} | {goal.what} | {goal.must:g} | {goal.target:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def find_card(device: str) -> str:
    return next((card for card in CARDS if card in device.replace("-", " ").split()), "")


GOALS_TABLE = Scenario(
    measure=lambda _: {"table": format_goals(read_results())},
    show=lambda result, _: print(result["table"]),
)
