"""Memory of this computer and its GPU; limits of containers count."""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch

from .budget import CONTEXT_BYTES

ROOT = Path("/")
CGROUP_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")  # v2, v1


def ram_bytes(root: Path = ROOT) -> int:
    """RAM of this computer, or the container's limit; 0 if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):

        class WindowsMemory(ctypes.Structure):
            _fields_ = (
                ("length", ctypes.c_ulong),
                ("load", ctypes.c_ulong),
                *((name, ctypes.c_ulonglong) for name in ("total", "free", "c", "d", "e", "f", "g")),
            )

        status = WindowsMemory(length=ctypes.sizeof(WindowsMemory))
        kernel = getattr(getattr(ctypes, "windll", None), "kernel32", None)
        return status.total if kernel and kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else 0
    limits = (_read_number(root / path, r"\s*(\d+)\s*") for path in CGROUP_LIMITS)
    return min([total, *(limit for limit in limits if limit is not None)])


def available_bytes(root: Path = ROOT) -> int:
    """RAM that other programs leave; all of it if unknown."""
    free = _read_number(root / "proc/meminfo", r".*^MemAvailable:\s*(\d+) kB$.*")
    return ram_bytes(root) if free is None else min(ram_bytes(root), 1024 * free)


def free_bytes(device: torch.device) -> int:
    """GPU memory that this process may use, with what its CUDA context has taken."""
    return torch.cuda.mem_get_info(device)[0] + CONTEXT_BYTES


def total_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[1]


def limit_torch(limit: int, device: torch.device) -> None:
    """Let PyTorch raise an out-of-memory error above ``limit`` bytes of a CUDA device."""
    share = min(1.0, limit / total_bytes(device))
    torch.cuda.set_per_process_memory_fraction(share, cast("int | None", device.index))


def _read_number(path: Path, pattern: str) -> int | None:
    """The number in a file of the system; None without such a file or number."""
    with suppress(OSError, UnicodeDecodeError):
        match = re.fullmatch(pattern, path.read_text(encoding="ascii"), re.DOTALL | re.MULTILINE)
        return int(match[1]) if match else None
    return None
