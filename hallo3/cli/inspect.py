"""``hallo3 inspect``, ``verify``, ``doctor`` and ``tiny``: look at files, and make small random models."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch

from .. import doctor
from ..checkpoints import inspect as inspection
from ..checkpoints.locate import ModelFolder
from ..checkpoints.random_weights import write_random_set
from ..errors import CheckpointError, InputError
from ..media.provenance import read_provenance
from ..quantization import device_name
from ..speed.device import DeviceSpeed
from ..units import format_bytes
from .options import DoctorOptions, InspectOptions, TinyOptions, VerifyOptions
from .progress import show_percent


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
    folder, facts = options.folder, dict[str, Any]()
    if folder is None and not options.measure:
        raise InputError(
            "There is no folder to look at.",
            found="no DIR",
            expected="a model folder, or ComfyUI's models folder",
            fix="name it; or use --measure, which needs none",
        )
    if folder is not None and folder.is_file():
        raise InputError(
            "This is a file, not a folder.",
            found=str(folder),
            expected="a model folder, or ComfyUI's models folder",
            fix="give its folder; `hallo3 inspect` shows what a file is",
        )
    report = None if folder is None else doctor.diagnose(ModelFolder(folder))
    if report is not None:
        facts = {**asdict(report), "ready": report.ready}
        if not options.json:
            print(doctor.format_report(report))
            if report.ready:
                print("`hallo3 animate --trial` shows within minutes whether it runs here.")
    if options.measure:
        facts["measured"] = _measure(print_text=not options.json)
    if options.json:
        print(json.dumps(facts, indent=1))
    if report is not None and not report.ready:
        missing = [part.part for part in report.parts if not part.ready]
        raise CheckpointError(
            "The model is not complete.",
            found=f"no usable {', '.join(missing)}",
            expected="every part that is not optional, and none that is wrong",
            fix="see above",
        )


def _measure(*, print_text: bool) -> dict[str, Any]:
    """Measure the device that runs would use, and print what was measured, even if it is stopped."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speed = DeviceSpeed(device=device)
    try:
        speed.measure(show_percent)
    finally:
        if print_text:
            print(f"\nMeasured; this text names no file, and may be pasted into an issue\n{speed.text()}")
    speeds = {key: asdict(each) for key, each in speed.speeds.items()}
    return {"device": device_name(device), "torch": torch.__version__, "lines": speed.lines, "models": speeds}


def run_tiny(options: TinyOptions) -> None:
    config = write_random_set(options.folder, options.seed, options.size)
    segment = config.segment
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(
        f"{options.folder}: random {config.name} weights, {format_bytes(size)}, "
        f"{segment.width} x {segment.height}, {segment.frames} frames per segment. They animate nothing."
    )
