"""The floors of the built-in model, a table of what was measured, and pictures of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from behaviour.cases import pairs, read_cases, read_prompts, singles
from behaviour.sheets import make_sheet
from behaviour.suite import render_case, shorten
from hallo3.models import Models

Rows = Mapping[str, Mapping[str, float]]


class Floor(NamedTuple):
    """A figure of a row and its bound: at least ``value``, or at most if ``most``. ``aim`` is better;
    ``chance`` is the row and figure of what has nothing to do with the input."""

    about: str
    row: str
    figure: str
    value: float
    most: bool = False
    aim: float | None = None
    chance: tuple[str, str] | None = None


FLOORS = (
    Floor(
        "mouths follow their speech",
        "people",
        "follows",
        0.80,
        aim=0.87,
        chance=("people, by chance", "follows"),
    ),
    Floor("the worst of the mouths", "people", "worst_follows", 0.60, aim=0.70),
    Floor("mouths follow another recording", "people", "control", 0.12, most=True),
    Floor("amplitude of mouths, relative to drawn ones", "people", "amplitude", 0.70),
    Floor("the own portrait is the nearest", "people", "own", 1.0, chance=("chance", "own")),
    Floor("change across segments, relative to inside", "people", "seam", 3.0, most=True, aim=2.0),
    Floor("degrees from the portrait's yaw", "people", "yaw", 12.0, most=True, chance=("chance", "yaw")),
    Floor("degrees of the worst", "people", "worst_yaw", 12.0, most=True),
    Floor("error after ten minutes, relative to before", "600 s", "drift", 1.15, most=True),
    Floor(
        "grounds, weather and things as prompted",
        "prompts",
        "objects",
        0.85,
        chance=("prompts, by chance", "objects"),
    ),
    Floor("two people: the own voice", "pairs", "follows", 0.65),
    Floor("two people: the other's voice", "pairs", "control", 0.15, most=True),
    Floor("two people, swapped: the other's voice", "pairs, voices swapped", "control", 0.65),
    Floor("two people, swapped: the own voice", "pairs, voices swapped", "follows", 0.15, most=True),
    Floor("CPU-seconds per second of video", "speed", "cpu_seconds", 3.0, most=True),
)
COLUMNS = (
    "follows",
    "worst_follows",
    "control",
    "amplitude",
    "silent",
    "yaw",
    "colour",
    "seam",
    "drift",
    "sharpness",
    "change",
)


def check_floors(rows: Rows) -> dict[str, dict[str, Any]]:
    """Every floor whose row is known."""
    checked: dict[str, dict[str, Any]] = {}
    for floor in FLOORS:
        value = rows.get(floor.row, {}).get(floor.figure)
        if value is None:
            continue
        met = value <= floor.value if floor.most else value >= floor.value
        result: dict[str, Any] = {
            "measured": value,
            "most" if floor.most else "least": floor.value,
            "met": met,
        }
        if floor.aim is not None:
            result["aim"] = floor.aim
        if floor.chance and (chance := rows.get(floor.chance[0], {}).get(floor.chance[1])) is not None:
            result["chance"] = chance
        checked[floor.about] = result
    return checked


def write_table(rows: Rows) -> str:
    """A page with the floors and all rows."""
    lines = ["# The built-in model, measured", "", "Written by `make bench-built-in` from `built_in.json`."]
    lines += [
        "Figures are explained in `behaviour/figures.py`.",
        "",
        "| what | measured | floor | aim | chance | met |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for about, floor in check_floors(rows).items():
        bound = f"at most {floor['most']:g}" if "most" in floor else f"at least {floor['least']:g}"
        aim, chance = (f"{floor[key]:g}" if key in floor else "" for key in ("aim", "chance"))
        met = "yes" if floor["met"] else "**no**"
        lines.append(f"| {about} | {floor['measured']:g} | {bound} | {aim} | {chance} | {met} |")
    mouths = {name: row for name, row in rows.items() if "follows" in row}
    lines += ["", f"| row | {' | '.join(COLUMNS)} |", f"|---{'|---' * len(COLUMNS)}|"]
    for name, row in mouths.items():
        cells = (f"{row[key]:.3g}" if key in row else "" for key in COLUMNS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, row in rows.items():
        if name not in mouths:
            figures = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
            lines.append(f"\n{name}: {figures}")
    return "\n".join(lines) + "\n"


def draw_pictures(folder: Path, models: Models, cases: Path) -> None:
    """``people.png``, ``pairs.png`` and ``prompts.png``: a portrait per row, and frames of its video."""
    known, prompts = read_cases(cases, models.config.segment), read_prompts(cases)
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {case.name: case for case in known}
    chosen = prompts[:80:11] + prompts[85:90:4]
    sheets = {
        "people": [(case, render_case(case, models)) for case in singles(known)],
        "pairs": [(case, render_case(case, models)) for case in pairs(known)],
        "prompts": [
            (by_name[each.name], render_case(shorten(by_name[each.name], models), models, prompt=each.prompt))
            for each in chosen
        ],
    }
    for name, rows in sheets.items():
        make_sheet(rows).save(folder / f"{name}.png", optimize=True)
