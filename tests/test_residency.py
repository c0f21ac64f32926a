"""Pinned memory that the system refuses: unpinned memory replaces it, wherever it is asked for."""

import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from hallo3.offload import streaming
from hallo3.residency import PinnedAllocator, copy_to_device, memory_stage, try_again
from hallo3.vae.causal_conv import CausalCache
from support.messages import expect_message

CUDA = torch.device("cuda")
WARNING = "pins no more memory"


class GPUTensor:
    """Looks like a tensor of a GPU to a cache."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.is_cuda = tensor, True
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        self.is_meta, self.element_size, self.numel = False, tensor.element_size, tensor.numel

    def contiguous(self, memory_format: torch.memory_format) -> Tensor:
        return self.tensor.contiguous(memory_format=memory_format)

    def copy_(self, source: Tensor) -> None:
        self.tensor.copy_(source)


class Queue:
    """A GPU's queue: copies from pinned memory happen when an event after them is waited for."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []

    def run(self) -> None:
        while self.copies:
            target, source = self.copies.pop(0)
            target.copy_(source)


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    gpu, real_copy, real_empty = Queue(), Tensor.copy_, torch.empty

    def copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if non_blocking:
            gpu.copies.append((target, source))
            return target
        return real_copy(target, source)

    def empty(*shape: Any, **options: Any) -> Tensor:
        return real_empty(*shape, dtype=options.get("dtype"))

    event = SimpleNamespace(record=lambda _: None, synchronize=gpu.run)
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: event if blocking else None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(Tensor, "copy_", copy)
    monkeypatch.setattr(torch, "empty", empty)
    return gpu


@pytest.mark.parametrize("chunk", [64, 1024, streaming.CHUNK_BYTES])
def test_weights_from_disk_pass_three_chunks(
    chunk: int, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their size; no chunk is filled while the GPU still copies from it."""
    monkeypatch.setattr(streaming, "CHUNK_BYTES", chunk)
    pinned, ring, real = list[int](), streaming.PinnedRing(), PinnedAllocator.empty
    record = lambda self, shape, dtype: pinned.append(*shape) or real(self, shape, dtype)  # noqa: E731
    monkeypatch.setattr(PinnedAllocator, "empty", record)
    for number in range(3):
        tensors = {"a": torch.randn(300 + number), "b": torch.randn(3, 7).half(), "c": torch.empty(0)}
        sent = streaming.send(tensors, CUDA, ring)
        queue.run()
        assert all(torch.equal(sent[name], each) for name, each in tensors.items())
        assert len({each.untyped_storage().data_ptr() for each in sent.values() if each.numel()}) == 1
    assert pinned == [chunk] * 3


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


def test_streamed_weights_are_sent(refusals: list[str], queue: Queue) -> None:
    tensors, ring = {str(n): torch.randn(5) for n in range(3)}, streaming.PinnedRing()
    with expect_message(WARNING):
        streaming.send(tensors, CUDA, ring)
    sent = streaming.send(tensors, CUDA, ring)
    queue.run()
    assert all(torch.equal(sent[name], tensor) for name, tensor in tensors.items())
    assert refusals == ["empty"], "the system is asked once"


def test_weights_are_packed(refusals: list[str], queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 64)
    tensors, allocator = {"a": torch.randn(40), "b": torch.randn(7)}, PinnedAllocator()
    with expect_message(WARNING):
        packs = [streaming.PackedTensors(tensors, allocator) for _ in range(3)]
    assert refusals == ["empty"]
    for pack in packs:
        sent = pack.to(CUDA)
        queue.run()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in sent.items())


def test_caches_of_a_decode_are_kept(refusals: list[str]) -> None:
    cache, frames = CausalCache("host"), torch.randn(1, 2, 2, 3, 4)
    source, target = GPUTensor(frames), GPUTensor(torch.zeros_like(frames))
    with expect_message(WARNING):
        cache.reserve(2 * frames.numel(), source)
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


class Shrinking:
    """A renderer that shrinks a number of times; notes what it heard, and what was alive then."""

    def __init__(self, times: int) -> None:
        self.times, self.seen = times, list[tuple[str, str, int]]()
        self.made = list[weakref.ref[Tensor]]()

    def shrink(self, error: Exception, stage: str) -> bool:
        alive = sum(made() is not None for made in self.made)
        self.seen.append((type(error).__name__, stage, alive))
        self.times -= 1
        return self.times >= 0

    def work(self, failures: int, error: Exception) -> str:
        """A stage inside a stage, that holds tensors in frames of functions and of a generator."""

        def slices() -> Iterator[Tensor]:
            tensor = torch.empty(5)
            self.made.append(weakref.ref(tensor))
            yield tensor
            raise AssertionError

        def fill() -> str:
            held = torch.empty(7)
            self.made.append(weakref.ref(held))
            for _ in slices():
                if len(self.made) <= 2 * failures:
                    raise error from RuntimeError("of a library")
            return "done"

        with memory_stage("sample"):
            with memory_stage("listen"):
                pass
            return fill() if len(self.made) < 2 * failures else "done"


def test_what_a_failed_try_held_is_freed_before_the_next() -> None:
    for kind in (torch.OutOfMemoryError, MemoryError, lambda: RuntimeError("CUDNN_STATUS_ALLOC_FAILED")):
        renderer, error = Shrinking(times=2), kind()
        assert try_again(lambda: renderer.work(2, error), renderer, "decode") == "done"  # noqa: B023
        assert renderer.seen == [(type(error).__name__, "sample", 0)] * 2
        with pytest.raises(type(error)):
            try_again(lambda: renderer.work(9, error), renderer)  # noqa: B023
        assert len(renderer.seen) == 3
    for other, renderer in ((ValueError("no"), Shrinking(2)), (MemoryError(), object())):
        with pytest.raises(type(other)):
            try_again(lambda: Shrinking(0).work(1, other), renderer)  # noqa: B023
        assert not getattr(renderer, "seen", [])
