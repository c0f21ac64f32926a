"""``hallo3 inspect``, ``doctor`` and ``tiny``: look at weights and models, and make small random ones."""

from __future__ import annotations

import json
from dataclasses import asdict

from .. import doctor
from ..checkpoints import inspect as inspection
from ..checkpoints.locate import ModelFolder
from ..checkpoints.random_weights import write_random_set
from ..errors import CheckpointError, InputError
from ..units import format_bytes
from .options import DoctorOptions, InspectOptions, TinyOptions


def run_inspect(options: InspectOptions) -> None:
    """Raises ``CheckpointError`` for the first file that is no weights file."""
    results = [inspection.inspect(path) for path in options.files]
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        print("\n\n".join(inspection.format_inspection(result) for result in results))


def run_doctor(options: DoctorOptions) -> None:
    """Raises ``CheckpointError`` if anything is missing, after printing all of it."""
    if options.folder.is_file():
        raise InputError(
            "This is a file, not a folder.",
            found=str(options.folder),
            expected="a model folder, or ComfyUI's models folder",
            fix="give its folder; `hallo3 inspect` shows what a file is",
        )
    report = doctor.diagnose(ModelFolder(options.folder))
    if options.json:
        print(json.dumps({**asdict(report), "ready": report.ready}, indent=1))
    else:
        print(doctor.format_report(report))
        if report.ready:
            print("`hallo3 animate --trial` shows within minutes whether it runs here.")
    if not report.ready:
        missing = [part.part for part in report.parts if not part.ready]
        raise CheckpointError(
            "The model is not complete.",
            found=f"no usable {', '.join(missing)}",
            expected="every part that is not optional, and none that is wrong",
            fix="see above",
        )


def run_tiny(options: TinyOptions) -> None:
    config = write_random_set(options.folder, options.seed, options.size)
    segment = config.segment
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(
        f"{options.folder}: random {config.name} weights, {format_bytes(size)}, "
        f"{segment.width} x {segment.height}, {segment.frames} frames per segment. They animate nothing."
    )
