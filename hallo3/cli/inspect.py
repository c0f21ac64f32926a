"""``hallo3 inspect``, ``verify``, ``doctor`` and ``tiny``: look at files, and make small random models."""

from __future__ import annotations

import json
from dataclasses import asdict

from .. import doctor
from ..checkpoints import inspect as inspection
from ..checkpoints.locate import ModelFolder
from ..checkpoints.random_weights import write_random_set
from ..errors import CheckpointError, InputError
from ..media.provenance import read_provenance
from ..units import format_bytes
from .options import DoctorOptions, InspectOptions, TinyOptions, VerifyOptions


def run_inspect(options: InspectOptions) -> None:
    """Raises ``CheckpointError`` for the first file that is no weights file."""
    results = [inspection.inspect(path) for path in options.files]
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        print("\n\n".join(inspection.format_inspection(result) for result in results))


def run_verify(options: VerifyOptions) -> None:
    """Raises ``InputError`` for a video without a signature, and for one that was changed, after printing
    what the signature says."""
    said = read_provenance(options.file)
    if said is None:
        raise InputError(
            "The video is not signed.",
            found=f"{options.file.name} without Content Credentials",
            expected="a video made with --sign",
            fix="ask for the signed file; many sites remove signatures from what is uploaded",
        )
    rows = {"signed by": said.signer, "when": said.time, "made with": f"{said.generator}, AI-generated"}
    for name, text in {**rows, **{f"from {name}": text for name, text in said.inputs.items()}}.items():
        print(f"{name:<14} {text}")
    if said.changes:
        raise InputError(
            "The video was changed after it was signed.",
            found=", ".join(said.changes),
            expected="every byte as it was signed",
            fix="get the file again from its author",
        )
    print("The video is as it was signed. Who owns the certificate was not checked.")


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
