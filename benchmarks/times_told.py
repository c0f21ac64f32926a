"""What ``times`` found, told: tables and a chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from benchmarks.bars import Bar, Panel, draw_bars
from benchmarks.report import table

PARTS = ("rates", "attention", "step", "decode", "segment")
"""Of a result, in the order in which they are measured."""


def text(found: Mapping[str, Any]) -> str:
    """For people: what was measured where, a table a part, and the goals."""
    device, sizes = found["machine"]["device"], found["sizes"]
    lines = [
        f"on {device}: {sizes['config']}, " + ", ".join(f"{k} {v}" for k, v in sizes.items() if k != "config")
    ]
    for part in (*PARTS, "ceilings"):
        if part in found:
            rows = {
                name: {k: v for k, v in row.items() if not isinstance(v, dict)}
                for name, row in found[part].items()
            }
            lines += ["", table(rows, part)]
    return "\n".join([*lines, "", table(found["goals"], "goals")])


def chart(found: Mapping[str, Any]) -> Tensor:
    """Seconds of steps and decodes, the original's beside ours."""
    sizes, panels = found["sizes"], list[Panel]()
    for part, title in (("step", "A step, both branches"), ("decode", "Decode of a segment")):
        rows = {name: row["seconds"] for name, row in found.get(part, {}).items() if "seconds" in row}
        if rows:
            bars = [Bar(n, s, f"{s:.3g} s", not n.startswith("original")) for n, s in rows.items()]
            panels.append(Panel(title, "seconds, the median", tuple(bars)))
    told = f"{sizes['config']}, {sizes['layers']} layers, {sizes['segment']}, {sizes['type']}, random weights"
    return draw_bars(f"Times on {found['machine']['device']}", told, panels)
