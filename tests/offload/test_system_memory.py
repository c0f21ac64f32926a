"""What memory there is, as the system and the GPU's driver say it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.offload.budget import CONTEXT, GB
from hallo3.offload.system_memory import available_bytes, free_bytes, keep_under, ram_bytes, total_bytes

PAGE = 4096
HAS = {"SC_PAGE_SIZE": PAGE, "SC_PHYS_PAGES": 16 * GB // PAGE}
TOTAL = 16 * GB // PAGE * PAGE
V2, V1 = "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a system with 16 GB."""
    monkeypatch.setattr(os, "sysconf", HAS.__getitem__)
    return tmp_path


def say(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, TOTAL),
        ({V2: "max\n"}, TOTAL),
        ({V2: f"{6 * GB}\n"}, 6 * GB),
        ({V1: f"{5 * GB}\n"}, 5 * GB),
        ({V1: f"{2**63 - PAGE}\n"}, TOTAL),
        ({V2: "", V1: "nonsense"}, TOTAL),
    ],
    ids=str,
)
def test_a_containers_limit_is_the_hosts_memory(root: Path, files: dict[str, str], expected: int) -> None:
    for path, text in files.items():
        say(root, path, text)
    assert ram_bytes(root) == available_bytes(root) == expected


def test_what_others_hold_is_not_available(root: Path) -> None:
    say(
        root,
        "proc/meminfo",
        "MemTotal:  15625000 kB\nMemFree: 1 kB\nMemAvailable:  4000000 kB\nBuffers: 3 kB\n",
    )
    assert ram_bytes(root) == TOTAL
    assert available_bytes(root) == 4_096_000_000
    say(root, V2, f"{3 * GB}")
    assert available_bytes(root) == 3 * GB


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A driver of a card of 12 GB, 8 of them free; what torch is allowed."""
    allowed = list[Any]()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * GB, 12 * GB))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: allowed.append(given))
    return allowed


def test_torch_is_held_under_a_ceiling(told: list[Any]) -> None:
    card = torch.device("cuda:1")
    assert free_bytes(card) == 8 * GB + CONTEXT
    assert total_bytes(card) == 12 * GB
    keep_under(6 * GB, card)
    keep_under(12 * GB, torch.device("cuda"))
    keep_under(13 * GB, card)
    assert told == [(0.5, 1), (1.0, 3), (1.0, 1)]
