"""What memory this machine has: its own, and what its GPU has free."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch

from .budget import CONTEXT

ROOT = Path("/")
LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files that say how much memory a container may take: cgroups 2 and 1."""
MEMINFO = "proc/meminfo"


def ram_bytes(root: Path = ROOT) -> int:
    """Bytes of the host's memory, or of what a container may take of it; 0 where nobody says."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _windows_memory()
    limits = (_said(root / path, r"\s*(\d+)\s*") for path in LIMITS)
    return min([total, *(limit for limit in limits if limit is not None)])


def available_bytes(root: Path = ROOT) -> int:
    """Bytes of :func:`ram_bytes` that other programs leave, where the system says so; else all of them."""
    free = _said(root / MEMINFO, r".*^MemAvailable:\s*(\d+) kB$.*")
    return ram_bytes(root) if free is None else min(ram_bytes(root), 1024 * free)


def free_bytes(device: torch.device) -> int:
    """Bytes of a CUDA device that this process may have, with what CUDA has taken for it already."""
    return torch.cuda.mem_get_info(device)[0] + CONTEXT


def total_bytes(device: torch.device) -> int:
    """All bytes of a CUDA device."""
    return torch.cuda.mem_get_info(device)[1]


def keep_under(promised: int, device: torch.device) -> None:
    """Have torch refuse to take more than so many bytes of a CUDA device."""
    named = cast("int | None", device.index)
    number = torch.cuda.current_device() if named is None else named
    torch.cuda.set_per_process_memory_fraction(min(1.0, promised / total_bytes(device)), number)


def _said(path: Path, pattern: str) -> int | None:
    """The number in a file of the system; None where there is no such file, or it says none."""
    with suppress(OSError, UnicodeDecodeError):
        found = re.fullmatch(pattern, path.read_text(encoding="ascii"), re.DOTALL | re.MULTILINE)
        return int(found[1]) if found else None
    return None


def _windows_memory() -> int:
    """Windows says it in a structure of its own; 0 where nobody says."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "c", "d", "e", "f", "g")),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    return status.total if kernel is not None and kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else 0
