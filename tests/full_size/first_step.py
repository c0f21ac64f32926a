"""The command, with a note of what it had read and computed when the first sampling step began; Linux.

python tests/full_size/first_step.py NOTE animate --model ...
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from hallo3.cli.main import main
from hallo3.model.transformer import Hallo3Transformer

STEPS = "forward", "forward_layerwise"
NAMES = {"rchar": "read_gb", "read_bytes": "disk_gb"}


def watch(note: Path) -> None:
    started = time.perf_counter()

    def wrap(real: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            if not note.exists():
                rows = dict(row.split(": ") for row in Path("/proc/self/io").read_text().splitlines())
                figures = {title: round(int(rows[name]) / 1e9, 2) for name, title in NAMES.items()}
                figures |= {"cpu_seconds": round(time.process_time(), 1)}
                figures |= {"seconds": round(time.perf_counter() - started, 1)}
                note.write_text(json.dumps(figures))
            return real(*arguments, **options)

        return step

    for name in STEPS:
        setattr(Hallo3Transformer, name, wrap(getattr(Hallo3Transformer, name)))


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
