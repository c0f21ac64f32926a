"""Pinned memory that the system refuses: unpinned memory replaces it, wherever it is asked for."""

from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from hallo3.offload import streaming
from hallo3.pipeline import copy_to_device
from hallo3.residency import PinnedAllocator
from hallo3.vae.causal_conv import CausalCache
from support.messages import expect_message

CUDA = torch.device("cuda")
WARNING = "pins no more memory"


class GPUTensor:
    """Looks like a tensor of a GPU to a cache."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.is_cuda = tensor, True
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device

    def contiguous(self) -> Tensor:
        return self.tensor

    def copy_(self, source: Tensor) -> None:
        self.tensor.copy_(source)


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests for pinned memory, all refused; copies to a GPU stay on the CPU."""
    requests, real_empty, real_to = list[str](), torch.empty, Tensor.to

    def refuse(kind: str) -> NoReturn:
        requests.append(kind)
        raise RuntimeError("CUDA error: out of memory")

    def empty(*shape: Any, **options: Any) -> Tensor:
        if options.get("pin_memory"):
            refuse("empty")
        return real_empty(*shape, **options | ({"device": "cpu"} if options.get("device") == CUDA else {}))

    def to(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return tensor if arguments[0] == CUDA else real_to(tensor, *arguments, **options)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(Tensor, "pin_memory", lambda _: refuse("copy"))
    monkeypatch.setattr(Tensor, "to", to)
    return requests


def test_noise_is_copied(refusals: list[str]) -> None:
    noise = torch.randn(5)
    with expect_message(WARNING):
        assert torch.equal(copy_to_device(noise, CUDA), noise)
    assert refusals == ["copy"]


def test_streamed_weights_are_sent(refusals: list[str]) -> None:
    tensors, allocator = {str(n): torch.randn(5) for n in range(3)}, PinnedAllocator()
    with expect_message(WARNING):
        streaming.send(tensors, CUDA, allocator)
    sent = streaming.send(tensors, CUDA, allocator)
    assert all(torch.equal(sent[name], tensor) for name, tensor in tensors.items())
    assert refusals == ["copy"], "the system is asked once"


def test_weights_are_packed(refusals: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 64)
    tensors, allocator = {"a": torch.randn(40), "b": torch.randn(7)}, PinnedAllocator()
    with expect_message(WARNING):
        packs = [streaming.PackedTensors(tensors, allocator) for _ in range(3)]
    assert refusals == ["empty"]
    for pack in packs:
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in pack.to(CUDA).items())


def test_caches_of_a_decode_are_kept(refusals: list[str]) -> None:
    cache, frames = CausalCache("host"), torch.randn(1, 2, 2, 3, 4)
    source, target = GPUTensor(frames), GPUTensor(torch.zeros_like(frames))
    with expect_message(WARNING):
        cache.store(("conv", 0), source)
    cache.store(("conv", 1), source)
    assert refusals == ["empty"]
    assert cache.load(("conv", 0), target)
    assert torch.equal(target.tensor, frames)


@pytest.mark.usefixtures("refusals")
def test_a_full_device_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    monkeypatch.setattr(Tensor, "pin_memory", full)
    with pytest.raises(torch.OutOfMemoryError):
        PinnedAllocator().empty([3], torch.uint8)
    with pytest.raises(torch.OutOfMemoryError):
        PinnedAllocator().copy(torch.zeros(3))


def test_pinning_can_be_off() -> None:
    tensor, allocator = torch.zeros(3), PinnedAllocator(wanted=False)
    assert allocator.copy(tensor) is tensor
    assert allocator.empty([2, 3], torch.int8).shape == (2, 3)
