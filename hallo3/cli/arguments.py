"""Every option of every command."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from .. import __version__
from ..built_in import FOLDER, NAME

ABOUT = "Animate one portrait from speech (Hallo3)."
SIZES = ("tiny", "nano")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def parser() -> ArgumentParser:
    """The command line's parser."""
    top = ArgumentParser(prog="hallo3", description=ABOUT)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _animate(commands.add_parser("animate", help="portrait and speech in, video out", description=ABOUT))
    _tiny(commands.add_parser("tiny", help="write a complete set of small random weights"))
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where an unexpected error arose")
    return top


def _animate(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--portrait",
        type=Path,
        required=True,
        metavar="P",
        help="picture of one person, 64 px or more a side",
    )
    add("--speech", type=Path, required=True, metavar="S", help="audio or video file with the speech")
    add("--prompt", default="", metavar="T", help="what the picture shows (default: no text)")
    add(
        "--model",
        type=_model_folder,
        default=FOLDER,
        metavar="DIR",
        help=f"model folder, or {NAME}: small, for drawn faces (default: {NAME})",
    )
    add("-o", "--output", type=Path, metavar="OUT.mp4", help="video to write; needed unless --plan")
    add("--steps", type=int, metavar="N", help="sampling steps a segment (default: the model's)")
    add("--guidance", type=float, metavar="G", help="guidance scale; 1 is none (default: the model's)")
    add("--seed", type=int, default=0, metavar="N", help="0 to 2^64 - 1 (default: 0)")
    add("--sampler", metavar="NAME", help="dpmpp_2m_sde or ddim (default: the model's)")
    add("--enlarge", type=int, default=1, metavar="N", help="frames N times as large, 1 to 16 (default: 1)")
    add("--plan", action="store_true", help="print what a run would take and render nothing")
    add("--json", action="store_true", help="with --plan: as one JSON object")
    expert = command.add_argument_group("for experts")
    add = expert.add_argument
    add("--device", choices=DEVICES, default="auto", help="where to compute (default: a GPU if there is one)")
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="number type (default: bfloat16 on a GPU, else float32)",
    )
    add(
        "--posterior",
        choices=("mean", "sample"),
        default="mean",
        help="sample: as the original encodes pictures",
    )
    add(
        "--low-memory",
        action="store_true",
        help="one guidance branch at a time, conditions projected when read",
    )


def _model_folder(text: str) -> Path:
    """The built-in model by its name, any other by its folder."""
    return FOLDER if text == NAME else Path(text)


def _tiny(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="new or empty folder")
    add("--seed", type=int, default=0, metavar="N", help="0 to 2^64 - 1 (default: 0)")
    add("--size", choices=SIZES, default="tiny", help="tiny: 64 x 96, 49 frames; nano: 32 x 32, 17 frames")
