"""What memory this machine has: its own, and what its GPU has free."""

from __future__ import annotations

import os
from typing import cast

import torch

from .plan import CONTEXT


def ram_bytes() -> int:
    """Bytes of the host's memory, 0 where nobody says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _windows_memory()


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
