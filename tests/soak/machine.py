"""On what a figure was measured, and the file it is kept in."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import av
import torch

from conftest import REPOSITORY
from hallo3 import __version__


def keep(name: str, figures: dict[str, Any]) -> None:
    """Write figures to docs/measurements, with what they were measured on, and print them."""
    machine = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
        "hallo3": __version__,
    }
    text = json.dumps({"machine": machine, **figures}, indent=1)
    (REPOSITORY / "docs/measurements" / name).write_text(text + "\n", encoding="utf-8")
    print(text)
