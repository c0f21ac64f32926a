"""``python -m hallo3``, and the command ``hallo3``."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Import without garbage collection, which would look for garbage among a million objects that are none;
    the command starts it again."""
    gc.disable()
    from .cli.main import main as run_command

    return run_command()


if __name__ == "__main__":
    sys.exit(main())
