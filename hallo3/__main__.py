"""``python -m hallo3``."""

from __future__ import annotations

import os
import sys


def run() -> None:
    """The console script."""
    # Threads that spin while they wait cost small models a hundredfold as soon as another program wants a
    # core (docs/measurements/threads.md); this must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from .cli.main import main

    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
