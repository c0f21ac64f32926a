"""How the built-in model behaves: figures on portraits and sentences it has not seen.

    python benchmarks/built_in.py --json docs/measurements/built_in.json --sheet docs/pictures/built_in.png

Its own settings on all cases, long speech, silence, other steps and the other sampler on a few cases,
CPU-seconds a second of video; real speech with ``--speech FILE...``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)

import torch  # noqa: E402

from behaviour.carry import measure_carry  # noqa: E402
from behaviour.cases import Case, make_case, read_cases  # noqa: E402
from behaviour.figures import Figures, measure_video, summarize  # noqa: E402
from behaviour.suite import make_long_case, measure_cases, measure_silence, render_case  # noqa: E402
from hallo3.built_in import FOLDER  # noqa: E402
from hallo3.loading import load_models  # noqa: E402
from hallo3.media.audio import read_recording  # noqa: E402
from hallo3.models import Models  # noqa: E402
from hallo3.quantization.precision import PRECISIONS  # noqa: E402
from training.sheets import render_people  # noqa: E402

STEPS, SAMPLERS, FEW = (2, 4, 8, 20), ("ddim", "dpmpp_2m_sde"), 4
CASES = ROOT / "tests" / "data" / "behaviour"


def one(case: Case, models: Models, **changes: Any) -> Figures:
    """A case without a control or strangers."""
    new_frames = models.config.segment.new_frames
    return measure_video(
        render_case(case, models, **changes), case.portrait, case.mouth, new_frames=new_frames
    )


def rounded(found: dict[str, float]) -> dict[str, float]:
    """Figures as they are kept: those that could be measured."""
    return {key: round(value, 3) for key, value in found.items() if value == value}


def speed(cases: list[Case], models: Models) -> dict[str, float]:
    """CPU-seconds of all threads, and seconds, for a second of video, over 20 s after a film to warm up."""
    render_case(cases[0], models)
    case = make_long_case(cases, cases[0].portrait, models, 20)
    cpu, wall = time.process_time(), time.perf_counter()
    render_case(case, models)
    length = len(case.mouth.open) / models.config.segment.fps
    return {
        "cpu_seconds": (time.process_time() - cpu) / length,
        "seconds": (time.perf_counter() - wall) / length,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--speech", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=int, nargs="*", default=[60], help="lengths to look for drift in")
    parser.add_argument("--no-table", action="store_true", help="leave steps and samplers out")
    options = parser.parse_args()
    models = load_models(options.model, torch.device("cpu"), PRECISIONS["fp32"])
    cases = read_cases(CASES, models.config.segment)
    kept: dict[str, Any] = {}

    def keep(name: str, found: dict[str, float]) -> None:
        kept[name] = rounded(found)
        print(name, json.dumps(kept[name]), flush=True)

    keep("own settings, 10 cases", summarize(measure_cases(cases, models)))
    keep("speed", speed(cases, models))
    keep("silence", {case.name: measure_silence(case, models) for case in cases})
    keep("carried on from motion frames", {case.name: measure_carry(case, models) for case in cases})
    for seconds in options.seconds:
        case = make_long_case(cases, cases[1].portrait, models, seconds)
        keep(f"{seconds} s", one(case, models).as_dict())
    for path in options.speech:
        case = make_case(path.stem, cases[0].portrait, read_recording(path), models.config.segment)
        keep(f"real speech {path.stem}", one(case, models).as_dict())
    for sampler in SAMPLERS if not options.no_table else ():
        for steps in STEPS:
            found = measure_cases(cases[:FEW], models, sampler=sampler, steps=steps)
            keep(f"{sampler}, {steps} steps, {FEW} cases", summarize(found))
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if options.sheet:
        render_people(options.model, CASES).save(options.sheet)


if __name__ == "__main__":
    main()
