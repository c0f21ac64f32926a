"""Memory of this computer and its GPU; limits of containers count, which psutil does not know."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import cast

import psutil
import torch

from ..checkpoints.locate import ModelFolder
from ..config import Hallo3Config
from ..errors import InputError
from ..quantization import PRECISIONS
from .budget import plan_cpu_memory
from .estimate import DEVICE, MemoryRequirements
from .sizes import measure_folder

ROOT = Path("/")
STARTED_CONTEXT_BYTES = 300_000_000  # of ``CONTEXT_BYTES``: kernels are loaded when they first run
WINDOWS_RESERVE_BYTES = 750_000_000
GROUPS = (  # of processes: mount, limit, and the memory that no cache can give back, in version 2 and 1
    ("sys/fs/cgroup", "memory.max", "anon"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "total_rss"),
)


def ram_bytes(root: Path = ROOT) -> int:
    """RAM of this computer, or the container's limit."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _read_limits(root))])


def unused_bytes(root: Path = ROOT) -> int:
    """RAM that neither this process nor any other holds."""
    free = [psutil.virtual_memory().available, *(limit - used for limit, used in _read_limits(root))]
    return max(0, min(free))


def available_bytes(root: Path = ROOT) -> int:
    """RAM that this process may use, with what it has: what other programs and the container leave."""
    return min(ram_bytes(root), unused_bytes(root) + psutil.Process().memory_info().rss)


def choose_cpu_precision(files: ModelFolder, config: Hallo3Config, steps: int, ram: int) -> str:
    """fp32, or bf16 where all weights in fp32 do not fit RAM: all of it, not what is free now, because a job
    is resumed in its own precision."""
    precision = PRECISIONS["fp32"]
    requirements = MemoryRequirements(precision=precision, steps=steps, branches=2)
    with suppress(InputError):
        if (
            plan_cpu_memory(measure_folder(files, config, precision), requirements, ram).offload.home
            == DEVICE
        ):
            return "fp32"
    return "bf16"


def free_bytes(device: torch.device) -> int:
    """GPU memory that this process may use, with what its CUDA context has taken at its start. On Windows the
    free bytes are a budget that the desktop shares, and what is above it silently goes to RAM: some are
    left."""
    free = torch.cuda.mem_get_info(device)[0] + STARTED_CONTEXT_BYTES
    return max(0, free - WINDOWS_RESERVE_BYTES) if sys.platform == "win32" else free


def total_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[1]


def limit_torch(limit: int, device: torch.device) -> None:
    """Let PyTorch raise an out-of-memory error above ``limit`` bytes of a CUDA device."""
    share = min(1.0, limit / total_bytes(device))
    torch.cuda.set_per_process_memory_fraction(share, cast("int | None", device.index))


def _read_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of every control group around this process that has a limit."""
    groups = [line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines()]
    for mount, limit_file, key in GROUPS:
        version_1 = mount.endswith("memory")
        own = (path for _, names, path in groups if ("memory" in names.split(",")) == version_1)
        group = PurePosixPath(next(own, "/")).relative_to("/")
        for folder in (group, *group.parents):
            limit = _read(root / mount / folder / limit_file).strip()
            if limit.isdecimal() and int(limit) < psutil.virtual_memory().total:
                used = dict(
                    line.split() for line in _read(root / mount / folder / "memory.stat").splitlines()
                )
                yield int(limit), int(used.get(key, 0))


def _read(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii")
    return ""
