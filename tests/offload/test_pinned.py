"""Locked memory that runs out: ordinary memory takes its place, wherever it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3 import pipeline as stages
from hallo3.offload import streaming as packing
from hallo3.residency import PinnedAllocator
from hallo3.vae.causal_conv import HostCache
from support.messages import expect_message

CUDA = torch.device("cuda")
LOCKS_NO_MORE = "pins no more memory"


class OnGPU:
    """What looks like a tensor of a GPU to a cache."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.is_cuda = tensor, True
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device

    def contiguous(self) -> Tensor:
        return self.tensor

    def copy_(self, source: Tensor) -> None:
        self.tensor.copy_(source)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A system that locks no memory, and notes how often it is asked; copies to a GPU stay here."""
    asked = list[str]()
    empty, to = torch.empty, Tensor.to

    def no_more(*shape: Any, **given: Any) -> Tensor:
        if given.get("pin_memory"):
            asked.append("empty")
            raise RuntimeError("CUDA error: out of memory")
        return empty(*shape, **given | ({"device": "cpu"} if given.get("device") == CUDA else {}))

    def not_this(tensor: Tensor) -> Tensor:
        del tensor
        asked.append("copied")
        raise RuntimeError("CUDA error: out of memory")

    def stay(tensor: Tensor, *given: Any, **more: Any) -> Tensor:
        return tensor if given[0] == CUDA else to(tensor, *given, **more)

    monkeypatch.setattr(torch, "empty", no_more)
    monkeypatch.setattr(Tensor, "pin_memory", not_this)
    monkeypatch.setattr(Tensor, "to", stay)
    return asked


def test_noise_is_sent_all_the_same(refused: list[str]) -> None:
    noise = torch.randn(5)
    with expect_message(LOCKS_NO_MORE):
        assert torch.equal(stages.copy_to_device(noise, CUDA), noise)
    assert refused == ["copied"]


def test_what_comes_from_disk_is_sent_all_the_same(refused: list[str]) -> None:
    kept, locking = {str(n): torch.randn(5) for n in range(3)}, PinnedAllocator()
    with expect_message(LOCKS_NO_MORE):
        packing.sent(kept, CUDA, locking)
    found = packing.sent(kept, CUDA, locking)
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())
    assert refused == ["copied"], "it is not asked again"


def test_a_network_is_packed_all_the_same(refused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK", 64)
    tensors, locking = {"a": torch.randn(40), "b": torch.randn(7)}, PinnedAllocator()
    with expect_message(LOCKS_NO_MORE):
        packs = [packing.Packed(tensors, locking) for _ in range(3)]
    assert refused == ["empty"]
    for pack in packs:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in pack.to(CUDA).items())


def test_a_decodes_caches_are_kept_all_the_same(refused: list[str]) -> None:
    cache, frames = HostCache(), torch.randn(1, 2, 2, 3, 4)
    found: Any = OnGPU(torch.zeros_like(frames))
    kept: Any = OnGPU(frames)
    with expect_message(LOCKS_NO_MORE):
        cache.keep(("conv", 0), kept)
    cache.keep(("conv", 1), kept)
    assert refused == ["empty"]
    assert cache.load(("conv", 0), found)
    assert torch.equal(found.tensor, frames)


@pytest.mark.parametrize("ask", [lambda locking, _: locking.empty([3], torch.uint8), PinnedAllocator.copy])
@pytest.mark.usefixtures("refused")
def test_a_device_that_is_full_is_told(
    ask: Callable[[PinnedAllocator, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    monkeypatch.setattr(Tensor, "pin_memory", full)
    with pytest.raises(torch.OutOfMemoryError):
        ask(PinnedAllocator(), torch.zeros(3))


def test_what_need_not_be_locked_is_not() -> None:
    tensor, locking = torch.zeros(3), PinnedAllocator(wanted=False)
    assert locking.copy(tensor) is tensor
    assert locking.empty([2, 3], torch.int8).shape == (2, 3)
