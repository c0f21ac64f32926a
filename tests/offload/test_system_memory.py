"""RAM and GPU memory, as the system and the driver report them."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from hallo3.cli import memory
from hallo3.offload import system_memory
from hallo3.offload.system_memory import (
    STARTED_CONTEXT_BYTES,
    available_bytes,
    free_bytes,
    limit_torch,
    ram_bytes,
    total_bytes,
)
from hallo3.units import GB

TOTAL, FREE, OWN = 16 * GB, 4 * GB, GB // 2
V2, V1, GROUPS = "sys/fs/cgroup", "sys/fs/cgroup/memory", "proc/self/cgroup"
NESTED = {GROUPS: "0::/user/job\n", f"{V2}/user/memory.stat": f"file 7\nanon {2 * GB}\n"}
NESTED |= {f"{V2}/user/memory.max": f"{3 * GB}", f"{V2}/user/job/memory.max": f"{5 * GB}"}
OLD_GROUP = {GROUPS: "5:cpu:/x\n4:memory,hugetlb:/job\n0::/\n"}
OLD_GROUP |= {f"{V1}/job/memory.limit_in_bytes": f"{2 * GB}", f"{V1}/job/memory.stat": f"total_rss {3 * GB}"}


def test_ram_and_limits_of_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=TOTAL, available=FREE))
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=OWN))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    cases: list[tuple[dict[str, str], int, int]] = [
        ({}, TOTAL, FREE + OWN),
        ({f"{V2}/memory.max": "max\n"}, TOTAL, FREE + OWN),
        ({f"{V2}/memory.max": f"{6 * GB}\n"}, 6 * GB, FREE + OWN),
        ({f"{V1}/memory.limit_in_bytes": f"{3 * GB}\n"}, 3 * GB, 3 * GB),
        ({f"{V1}/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, TOTAL, FREE + OWN),
        ({f"{V2}/memory.max": "", f"{V1}/memory.limit_in_bytes": "nonsense"}, TOTAL, FREE + OWN),
        (NESTED, 3 * GB, GB + OWN),
        (OLD_GROUP, 2 * GB, OWN),
    ]
    for number, (files, *wanted) in enumerate(cases):
        root = tmp_path / str(number)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        assert [ram_bytes(root), available_bytes(root)] == wanted, files


@pytest.mark.parametrize(
    ("platform", "cuda", "given", "then"),
    [
        ("linux", "13.0", {}, "expandable_segments:True"),
        ("linux", "13.0", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ("linux", "13.0", {"PYTORCH_CUDA_ALLOC_CONF": ""}, ""),
        ("linux", "13.0", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, None),
        ("linux", None, {}, None),  # not CUDA's build of torch
        ("win32", "13.0", {}, None),
    ],
)
def test_segments_are_expandable_where_they_can_be(
    platform: str, cuda: str | None, given: dict[str, str], then: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in memory.ALLOCATOR_SETTINGS:
        monkeypatch.setenv(name, "")  # and back to what it was, later
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    memory.use_expandable_segments()
    assert os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == then


def test_windows_keeps_some_for_the_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    kept = system_memory.WINDOWS_RESERVE_BYTES - STARTED_CONTEXT_BYTES
    for free, usable in ((8 * GB, 8 * GB - kept), (0, 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 12 * GB))
        assert free_bytes(torch.device("cuda")) == usable


def test_torch_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 12 GB, 8 of them free."""
    fractions, gpu = list[Any](), torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * GB, 12 * GB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: fractions.append(args))
    assert free_bytes(gpu) == 8 * GB + STARTED_CONTEXT_BYTES
    assert total_bytes(gpu) == 12 * GB
    limit_torch(6 * GB, gpu)
    limit_torch(12 * GB, torch.device("cuda"))
    limit_torch(13 * GB, gpu)
    assert fractions == [(0.5, 1), (1.0, None), (1.0, 1)]
