"""``hallo3 inspect`` and ``hallo3 doctor``: looking, without loading or changing anything."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict

from .. import doctor
from ..checkpoints import inspect as inspection
from ..checkpoints.locate import ModelFolder
from ..checkpoints.random_weights import write_random_set
from ..errors import CheckpointError, InputError


def run_inspect(options: Namespace) -> None:
    """What each file is. Raises ``CheckpointError`` for the first that is no weights file."""
    seen = [inspection.inspect(path) for path in options.files]
    if options.json:
        print(json.dumps([asdict(one) for one in seen], indent=1))
        return
    print("\n\n".join(inspection.format_inspection(one) for one in seen))


def run_doctor(options: Namespace) -> None:
    """What a model folder lacks. Raises ``CheckpointError`` if anything, after telling all of it."""
    if options.folder.is_file():
        raise InputError(
            "This is a file, not a folder.",
            found=str(options.folder),
            expected="a model folder, or ComfyUI's models folder",
            fix="give its folder; `hallo3 inspect` says what a file is",
        )
    report = doctor.diagnose(ModelFolder(options.folder))
    if options.json:
        print(json.dumps({**asdict(report), "ready": report.ready}, indent=1))
    else:
        print(doctor.format_report(report))
    if not report.ready:
        lacking = [part.part for part in report.parts if not part.good]
        raise CheckpointError(
            "The model is not complete.",
            found=f"no usable {', '.join(lacking)}",
            expected="five parts",
            fix="see above",
        )


def make_tiny(options: Namespace) -> None:
    """Write the set and say what it is."""
    config = write_random_set(options.folder, options.seed, options.size)
    segment = config.segment
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(
        f"{options.folder}: random {config.name} weights, {size / 1e6:.1f} MB, "
        f"{segment.width} x {segment.height}, {segment.frames} frames a segment. They animate nothing."
    )
