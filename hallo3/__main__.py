"""``python -m hallo3``, ``python FOLDER/hallo3``, and the command ``hallo3``."""

from __future__ import annotations

import gc
import sys
from pathlib import Path


def main() -> int:
    """Import without garbage collection, which would look for garbage among a million objects that are none;
    the command starts it again."""
    gc.disable()
    try:
        from .cli.main import main as run_command
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        return 1
    return run_command()


if __name__ == "__main__":
    if not __package__:  # by its folder: ComfyUI's portable Python imports nothing from the current one
        sys.path[0], __package__ = str(Path(__file__).resolve().parents[1]), "hallo3"
    sys.exit(main())
