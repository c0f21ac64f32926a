"""A whole run at full size under ceilings of memory, counted on the meta device: ``python -m benchmarks
ceilings [--json FILE] [GB ...]``.

What streams a step is told too, and the link that hides it at a given rate of matrix products.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rehearsal import Rehearsal, full_size
from hallo3.config import HALLO3
from hallo3.offload.budget import plan_memory
from hallo3.offload.estimate import MemoryRequirements
from hallo3.quantization.precision import PRECISIONS
from hallo3.units import GB

CEILINGS = (6, 8, 12, 16, 24)
RATES = (70e12, 160e12, 400e12, 800e12)
"""FLOP a second that a card may do on a step."""
STEP = 7.75e14
"""FLOP of a step (docs/measurements/ledger.json)."""


def counted(
    ceiling: float, precision: str = "bf16", *, fused: bool = True, ram: int = 64 * GB
) -> dict[str, Any]:
    """A plan for so many GB beside what was counted, and what streams."""
    sizes = full_size(precision)
    demand = MemoryRequirements(
        precision=PRECISIONS[precision], steps=HALLO3.defaults.steps, branches=2, fused=fused
    )
    plan = plan_memory(sizes, demand, round(ceiling * GB), ram)
    peaks = Rehearsal(sizes=sizes, demand=demand, plan=plan).run(slices=6)
    streamed = plan.stage("sample").streamed
    return {
        "ceiling_gb": ceiling,
        "precision": precision,
        "fused": fused,
        "line": plan.line(),
        "plan": plan.as_dict(),
        "counted": peaks,
        "streamed_a_step": streamed,
        "link_that_hides_it": {f"{rate:.0e} FLOP/s": streamed / (STEP / rate) for rate in RATES},
    }


def told(figures: dict[str, Any]) -> str:
    """Figures for people."""
    stages = {stage["name"]: stage["total"] for stage in figures["plan"]["stages"]}
    rows = [
        f"  {name:<10} counted {most / GB:6.2f} GB, planned {stages[name] / GB:6.2f} GB"
        for name, most in figures["counted"].items()
    ]
    links = ", ".join(f"{rate}: {link / GB:.1f}" for rate, link in figures["link_that_hides_it"].items())
    head = f"{figures['ceiling_gb']:g} GB, {figures['precision']}: {figures['line']}"
    return "\n".join(
        [head, *rows, f"  GB/s that hide {figures['streamed_a_step'] / GB:.1f} GB a step at {links}"]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ceilings", type=float, nargs="*", metavar="GB", help="default: 6 8 12 16 24")
    parser.add_argument("--precision", default="bf16", choices=tuple(PRECISIONS))
    parser.add_argument("--plain", action="store_true", help="without fused kernels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for each in options.ceilings or CEILINGS:
        found.append(counted(each, options.precision, fused=not options.plain))
        print(told(found[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
