"""Parse a command line, run its command, and print errors: exit code 0 done, 2 refused input, 1 anything
else."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import sys
import traceback
from argparse import ArgumentParser
from importlib import import_module
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, NamedTuple

from tqdm import tqdm

from .. import __version__
from ..errors import Hallo3Error, InputError, OutputError, is_out_of_memory
from ..messages import redirect_messages
from . import network_options as network
from . import options

DONE, FAILED, REFUSED = 0, 1, 2
ABOUT = "Make a portrait talk (Hallo3)."


class Command(NamedTuple):
    """``run_`` and the command's name is a function of ``module`` in this folder, imported when it runs."""

    options: type
    module: str
    help: str
    description: str | None = None


COMMANDS = {
    "animate": Command(options.AnimateOptions, "animate", "portrait and speech in, video out", ABOUT),
    "batch": Command(
        options.BatchOptions,
        "batch",
        "many videos from a table",
        "Render a video per row. Run the same command again after a stop: finished videos and segments are "
        "reused. The exit code is 0 if all rows are videos, 1 if some are not, 2 if none "
        "is.",
    ),
    "demo": Command(options.DemoOptions, "animate", "make a sample video with the built-in model"),
    "ui": Command(network.UiOptions, "ui", "serve a page for portrait, voice and prompt (uses the network)"),
    "serve": Command(network.ServeOptions, "serve", "serve /v1/videos to programs (uses the network)"),
    "jobs": Command(options.JobsOptions, "jobs", "list and delete kept jobs"),
    "convert": Command(
        options.ConvertOptions,
        "convert",
        "the original's checkpoints to safetensors",
        "Read tensors from the original's checkpoints, without running any code in them, and write "
        "safetensors files. Run the same command again after a stop: finished files are kept.",
    ),
    "inspect": Command(options.InspectOptions, "inspect", "show what a weights file is"),
    "verify": Command(options.VerifyOptions, "inspect", "show who signed a video, and if it was changed"),
    "doctor": Command(
        options.DoctorOptions, "inspect", "check whether a model is complete and how it runs on this machine"
    ),
    "download": Command(
        network.DownloadOptions, "download", "download the original's files (uses the network)"
    ),
    "tiny": Command(options.TinyOptions, "inspect", "write a complete model of small random weights"),
}


def return_freed_memory(smallest: int) -> None:
    """Have glibc give freed blocks of this size back at once: left alone, it keeps those of up to 32 MB, and
    the holes that freed weights leave add up to gigabytes. A smaller size costs time where a network
    computes, as each activation becomes new pages. Does nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, smallest)  # M_MMAP_THRESHOLD
        mallopt(-1, 4 * smallest)  # M_TRIM_THRESHOLD: what the end of the heap may keep


class _Stream(FileIO):
    """stdout or stderr. A reader that has left, and messages that cannot be written, stop no run."""

    _lost = False

    def write(self, data: Any) -> int | None:
        """Raises ``OutputError`` for a result that is lost, once."""
        written: int | None = None
        try:
            written = 0 if self._lost else super().write(data)
        except BrokenPipeError:
            self._lost = True
        except OSError as error:
            self._lost = True
            if self.fileno() == 1:
                raise OutputError(
                    "What the command prints cannot be written.",
                    found=error.strerror or str(error),
                    expected="a terminal, a file on a disk with space, or a pipe",
                    fix="print it elsewhere; a finished video is kept, and the same command reuses it",
                ) from error
        return len(data) if self._lost or written is None else written


def open_streams() -> None:
    """Give a process that was started without standard streams (``2>&-``) some that go nowhere: otherwise the
    next file that opens gets their number, and libraries write messages into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        stream: TextIOWrapper | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.dup(number), "w" if number else "r", encoding="utf-8"))
        elif number and type(getattr(stream.buffer, "raw", stream.buffer)) is FileIO:  # no Windows console
            raw = BufferedWriter(_Stream(stream.fileno(), "w", closefd=False))
            through = stream.write_through  # of PYTHONUNBUFFERED
            lines = stream.line_buffering or through
            setattr(sys, name, TextIOWrapper(raw, stream.encoding, stream.errors, None, lines, through))


def main(words: list[str] | None = None) -> int:
    """Run a command line, by default the process', and return its exit code. Errors go to stderr."""
    if words is None:
        open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have letters that a terminal has not
    name, values = parse(words)
    return_freed_memory(1 << 20 if name == "convert" else 16 << 20)
    try:
        with redirect_messages(lambda text: tqdm.write(f"note: {text}", file=sys.stderr)):  # above a bar
            run = getattr(import_module(f".{COMMANDS[name].module}", __package__), f"run_{name}")
            if not gc.isenabled():
                gc.freeze()  # what was imported stays: nothing to look through, at the end neither
                gc.enable()
            code = run(values)
        sys.stdout.flush()
    except Hallo3Error as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return REFUSED if isinstance(error, InputError) else FAILED
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _print_unexpected(error, values.traceback)
        refusal = InputError(
            "A file or folder cannot be used.",
            found=f"{error.filename or 'it'}: {error.strerror or error}",
            expected="one that exists and that you may use",
            fix="check its name, its permissions and its disk",
        )
        print(f"InputError: {refusal}", file=sys.stderr)
        return REFUSED
    except Exception as error:
        return _print_unexpected(error, values.traceback)
    return code or DONE


def parse(words: list[str] | None) -> tuple[str, Any]:
    """A command line as a command's name and its options; exits as ``argparse`` does."""
    top = ArgumentParser(prog="hallo3", description=ABOUT)
    top.add_argument("--version", action="version", version=__version__)
    parsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        parser = parsers.add_parser(name, help=command.help, description=command.description)
        options.add_options(parser, command.options)
    values = vars(top.parse_args(words))
    name = values.pop("command")
    return name, COMMANDS[name].options(**values)


def _print_unexpected(error: Exception, with_traceback: bool) -> int:
    if with_traceback:
        traceback.print_exception(error, file=sys.stderr)
    headline, fix = "Unexpected error.", "report this; --traceback shows where"
    if is_out_of_memory(error):
        headline = "Out of memory."
        fix = "on a GPU use --vram N with less than before; else --low-memory, or close other programs"
    first_line = (str(error).splitlines() or [""])[0]
    print(Hallo3Error(headline, found=f"{type(error).__name__}: {first_line}", fix=fix), file=sys.stderr)
    return FAILED
