"""Places and devices that are refused before anything is loaded."""

from __future__ import annotations

import tempfile
import warnings
from argparse import Namespace
from pathlib import Path

import torch

from ..audio.vocals import Separator
from ..backends import Backend
from ..errors import InputError
from ..identity import Identity
from ..parts import PARTS
from ..weights.places import VOCALS, ModelFolder
from ..weights.precision import Precision, check_device
from .animate_options import HERE


def check_output(options: Namespace) -> None:
    """Refuse now what could not be written in an hour. Raises ``InputError``."""
    path: Path | None = options.output
    endings = (".mp4", ".mov", ".mkv")
    if path is None or path.suffix.lower() not in endings:
        problem = "no -o" if path is None else f"-o {path}"
        expected = "a file name that ends in .mp4, .mov or .mkv"
        raise _refused(problem, expected, "name the video with -o OUT.mp4")
    if path.is_dir():
        raise _refused(f"{path} is a folder", "a file name", "choose another name")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise _refused(f"no folder {folder}", "a folder that exists", "make it first, or choose another")
    for source in (options.portrait, options.speech, options.identity):
        if source and path.exists() and source.exists() and path.samefile(source):
            raise _refused(f"{path} is an input", "another file", "choose another name")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refused(f"{folder}: {reason}", "a folder you may write to", "choose another") from error


def check_pictures(options: Namespace) -> None:
    """Refuse now what could not be written beside the video. Raises ``InputError``."""
    for name, ending in (
        ("chart", ".png"),
        ("speech_chart", ".png"),
        ("preview", ".png"),
        ("save_identity", ".safetensors"),
    ):
        path: Path | None = getattr(options, name)
        if path is not None and options.plan and name in ("chart", "save_identity"):
            raise InputError(
                "A plan renders nothing.",
                found=f"--plan and --{name.replace('_', '-')}",
                expected="one of them; --preview and --speech-chart can be drawn for a plan",
                do="leave one out",
            )
        if path is not None and (path.suffix.lower() != ending or not path.resolve().parent.is_dir()):
            raise InputError(
                "The file cannot be written there.",
                found=f"--{name.replace('_', '-')} {path}",
                expected=f"a file name that ends in {ending}, in a folder that exists",
                do="choose one",
            )


def vocals_file(options: Namespace, files: ModelFolder) -> Path | None:
    """The vocal separator's file, if vocals are to be separated; opened, so that its faults are told now.

    Raises ``CheckpointError`` for one that is missing or another, ``DependencyError`` without onnxruntime.
    """
    if options.vocals is None:
        return None
    path = options.vocals if options.vocals != HERE else files.vocals or files.path / VOCALS[0]
    _ = Separator(path).network
    return path


def check_apart(options: Namespace, files: ModelFolder) -> None:
    """Refuse to write over what is read, or two things to one file. Raises ``InputError``."""
    read = [options.portrait, options.speech, options.identity, options.output, files.vocals]
    read += [files.find(part) for part in PARTS]
    taken = {path.resolve() for path in read if path is not None}
    for name in ("chart", "speech_chart", "preview", "save_identity"):
        path: Path | None = getattr(options, name)
        if path is None:
            continue
        if path.resolve() in taken or (path.exists() and any(t.exists() and t.samefile(path) for t in taken)):
            raise InputError(
                "The file cannot be written there.",
                found=f"--{name.replace('_', '-')} {path}, which is an input, the video or another output",
                expected="a file of its own",
                do="choose another name",
            )
        taken.add(path.resolve())


def _refused(found: str, expected: str, do: str) -> InputError:
    return InputError("The video cannot be written there.", found=found, expected=expected, do=do)


def device_named(name: str) -> torch.device:
    """The device of a name; ``auto`` is a GPU if there is one. Raises ``InputError``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise InputError(
            "This device is not available.",
            found=f"--device {name}",
            expected=" or ".join(device for device, there in available.items() if there),
            do="choose one of these, or leave --device out",
        )
    return torch.device(name)


def check_products(precision: Precision, device: torch.device, *, known: bool) -> None:
    """Refuse products that the device cannot make, and say what eight-bit ones are; ``known`` is a model with
    which they have been tried. Raises ``InputError``."""
    check_device(precision, device)
    if not precision.approximate:
        return
    if not known:
        warnings.warn(
            f"{precision.name} is approximate: 8-bit products; untested on real weights", stacklevel=2
        )
    if device.type == "cpu":
        warnings.warn(
            f"{precision.name} is made for a GPU; on the CPU it can be slower than fp32", stacklevel=2
        )


def approximations_in(precision: Precision, attention: Backend) -> tuple[str, ...]:
    """What computes approximately in a run's networks, by name."""
    products = (precision.name,) if precision.approximate else ()
    return products if attention.exact else (*products, f"attention {attention.name}")


def tell_approximations(
    precision: Precision, attention: Backend, saved: Identity | None, *, known: bool
) -> None:
    """Say that an attention is approximate, and that a saved identity holds approximations that the run does
    not make; ``known`` is a model with which they have been tried."""
    if not attention.exact and not known:
        warnings.warn(
            f"attention {attention.name} is approximate: 8-bit products; untested on real weights",
            stacklevel=2,
        )
    if saved is not None and (told := saved.carries(approximations_in(precision, attention))):
        warnings.warn(told, stacklevel=2)
