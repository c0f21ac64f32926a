"""Which command, and what becomes of its errors: 0 done, 2 a refused input, 1 anything else."""

from __future__ import annotations

import errno
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper

from tqdm import tqdm

from ..errors import Hallo3Error, InputError, is_out_of_memory
from ..messages import redirect_messages
from .args import parser

DONE, FAILED, REFUSED = 0, 1, 2
COMMANDS = {
    "animate": ("animate", "run_animate"),
    "convert": ("convert", "run_convert"),
    "doctor": ("inspect", "run_doctor"),
    "download": ("download", "run_download"),
    "jobs": ("jobs", "run_jobs"),
    "inspect": ("inspect", "run_inspect"),
    "tiny": ("inspect", "make_tiny"),
}


def main(arguments: list[str]) -> int:
    """Run a command and return its exit code. Errors go to stderr, without a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a name may hold letters that a terminal does not have
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    with redirect_messages(_show_message):
        return _run(options)


def _show_message(message: str) -> None:
    tqdm.write(f"note: {message}", file=sys.stderr)  # on a line of its own, above a bar


def _run(options: Namespace) -> int:
    try:
        _command(options.command)(options)
    except Hallo3Error as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return REFUSED if isinstance(error, InputError) else FAILED
    except OSError as error:
        if error.errno == errno.ENOMEM:
            _show_unexpected(error, options.traceback)
            return FAILED
        print(_unusable(error), file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return FAILED
    except Exception as error:
        _show_unexpected(error, options.traceback)
        return FAILED
    return DONE


def _command(name: str) -> Callable[[Namespace], None]:
    """What does the work, imported when it is asked for."""
    module, function = COMMANDS[name]
    return getattr(import_module(f".{module}", __package__), function)


def _unusable(error: OSError) -> Hallo3Error:
    return InputError(
        "A file or folder cannot be used.",
        found=f"{error.filename or 'it'}: {error.strerror or error}",
        expected="one that exists and that you may use",
        fix="check its name, its permissions and the disk it is on",
    )


def _show_unexpected(error: Exception, with_traceback: bool) -> None:
    if with_traceback:
        traceback.print_exception(error, file=sys.stderr)
    memory = is_out_of_memory(error)
    advice = (
        "on a GPU use --vram N with less than before; else --low-memory, or close other programs"
        if memory
        else "report this; --traceback shows where"
    )
    headline = "Out of memory." if memory else "Something went wrong that should not have."
    first_line = (str(error).splitlines() or [""])[0]
    print(Hallo3Error(headline, found=f"{type(error).__name__}: {first_line}", fix=advice), file=sys.stderr)
