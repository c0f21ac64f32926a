"""``python -m hallo3``."""

from __future__ import annotations

import sys

from .cli.main import main


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
