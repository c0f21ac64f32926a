"""Every option of every command."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from .. import __version__
from ..parts import PARTS
from .animate_options import animate_options, model_folder

ABOUT = "Animate one portrait from speech (Hallo3)."
CONVERT = (
    "Read tensors from the original's checkpoints, run nothing that is in them, and write safetensors files. "
    "Run the same command again after a stop: it goes on."
)
SIZES = ("tiny", "nano")
NUMBERS = ("fp32", "bf16", "fp16", "fp8")


def parser() -> ArgumentParser:
    """The command line's parser."""
    top = ArgumentParser(prog="hallo3", description=ABOUT)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    animate_options(
        commands.add_parser("animate", help="portrait and speech in, video out", description=ABOUT)
    )
    _jobs(commands.add_parser("jobs", help="what is kept of videos, to list and to clear"))
    _convert(
        commands.add_parser("convert", help="the original's checkpoints to safetensors", description=CONVERT)
    )
    _inspect(commands.add_parser("inspect", help="what a file of weights is"))
    _doctor(commands.add_parser("doctor", help="is a model complete, and how can this machine run it?"))
    _download(commands.add_parser("download", help="fetch the original's files (uses the network)"))
    _tiny(commands.add_parser("tiny", help="write a complete set of small random weights"))
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where an unexpected error arose")
    return top


def _convert(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "source",
        type=Path,
        metavar="SRC",
        help="a checkpoint, or the folder the original was downloaded into",
    )
    add("target", type=Path, metavar="DST", help="folder to write to; ComfyUI's models folder is recognised")
    add("--dtype", choices=NUMBERS, default="bf16", help="number type of what is written (default: bf16)")
    add(
        "--part",
        action="append",
        choices=PARTS,
        help="convert this part only; may be given several times (default: all that are there)",
    )
    add(
        "--config", type=Path, metavar="JSON", help="the sizes of a checkpoint that is not the released model"
    )


def _jobs(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "folder",
        type=Path,
        nargs="?",
        default=Path(),
        metavar="DIR",
        help="where the videos are (default: here)",
    )
    add("--clear", nargs="+", metavar="JOB", help="take these jobs away, by name; all: every one")


def _inspect(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="a file, or a folder with the files of one network",
    )
    add("--json", action="store_true", help="as JSON")


def _doctor(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=model_folder, metavar="DIR", help="a model folder, or ComfyUI's models folder")
    add("--json", action="store_true", help="as one JSON object")


def _download(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="folder to download to; run again after a stop, it goes on")
    add("--part", action="append", choices=PARTS, help="only this part; may be given several times")
    add(
        "--revision",
        metavar="REV",
        help="commit to fetch (default: that of an earlier call, else the newest)",
    )
    add("--dry-run", action="store_true", help="list files and sizes, download nothing")


def _tiny(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="new or empty folder")
    add("--seed", type=int, default=0, metavar="N", help="0 to 2^64 - 1 (default: 0)")
    add("--size", choices=SIZES, default="tiny", help="tiny: 64 x 96, 49 frames; nano: 32 x 32, 17 frames")
