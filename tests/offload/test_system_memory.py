"""RAM and GPU memory, as the system and the driver report them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.offload.budget import CONTEXT_BYTES
from hallo3.offload.system_memory import available_bytes, free_bytes, limit_torch, ram_bytes, total_bytes
from hallo3.units import GB

PAGE = 4096
TOTAL = 16 * GB // PAGE * PAGE
V2, V1, MEMINFO = "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes", "proc/meminfo"
FREE_4GB = "MemTotal:  15625000 kB\nMemFree: 1 kB\nMemAvailable:  4000000 kB\nBuffers: 3 kB\n"


@pytest.mark.parametrize(
    ("files", "ram", "available"),
    [
        ({}, TOTAL, TOTAL),
        ({V2: "max\n"}, TOTAL, TOTAL),
        ({V2: f"{6 * GB}\n"}, 6 * GB, 6 * GB),
        ({V1: f"{5 * GB}\n"}, 5 * GB, 5 * GB),
        ({V1: f"{2**63 - PAGE}\n"}, TOTAL, TOTAL),
        ({V2: "", V1: "nonsense"}, TOTAL, TOTAL),
        ({MEMINFO: FREE_4GB}, TOTAL, 4_096_000_000),
        ({MEMINFO: FREE_4GB, V2: f"{3 * GB}"}, 3 * GB, 3 * GB),
    ],
    ids=str,
)
def test_ram_and_limits_of_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], ram: int, available: int
) -> None:
    sizes = {"SC_PAGE_SIZE": PAGE, "SC_PHYS_PAGES": TOTAL // PAGE}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert (ram_bytes(tmp_path), available_bytes(tmp_path)) == (ram, available)


def test_torch_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 12 GB, 8 of them free."""
    fractions, gpu = list[Any](), torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * GB, 12 * GB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: fractions.append(args))
    assert free_bytes(gpu) == 8 * GB + CONTEXT_BYTES
    assert total_bytes(gpu) == 12 * GB
    limit_torch(6 * GB, gpu)
    limit_torch(12 * GB, torch.device("cuda"))
    limit_torch(13 * GB, gpu)
    assert fractions == [(0.5, 1), (1.0, None), (1.0, 1)]
