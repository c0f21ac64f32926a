"""A model of PyTorch's allocator, and runs at the released model's width that are replayed through it."""

import random
from itertools import pairwise

import pytest

from benchmarks.allocator import MIB, AllocatorFullError, Block, CachingAllocator
from benchmarks.fits import KINDS, Replay, Traces, full_traces, measure_row, plan

BOTH = pytest.mark.parametrize("expandable", [False, True])


@pytest.mark.parametrize(
    ("size", "expandable", "reserved"),
    [
        (1, False, 2 * MIB),
        (MIB, False, 2 * MIB),
        (MIB + 1, False, 20 * MIB),
        (10 * MIB, False, 10 * MIB),
        (33 * MIB + 1, False, 34 * MIB),
        (MIB, True, 2 * MIB),
        (33 * MIB + 1, True, 40 * MIB),
    ],
)
def test_segments_have_pytorch_s_sizes(size: int, expandable: bool, reserved: int) -> None:
    allocator = CachingAllocator(1 << 40, expandable=expandable)
    block = allocator.allocate(size)
    rest = 34 * MIB - size  # what is not more than 1 MiB is not split off
    assert allocator.reserved == reserved
    assert block.size == (34 * MIB if 0 < rest <= MIB and not expandable else -(-size // 512) * 512)
    with pytest.raises(AllocatorFullError, match="wanted"):
        CachingAllocator(reserved - 1, expandable=expandable).allocate(size)
    CachingAllocator(reserved, expandable=expandable).allocate(size)


def test_the_smallest_block_that_suffices_is_split_and_merged() -> None:
    allocator = CachingAllocator(1 << 40)
    small, large = allocator.allocate(12 * MIB), allocator.allocate(40 * MIB)
    allocator.free(large)
    allocator.free(small)
    first, second = allocator.allocate(11 * MIB), allocator.allocate(14 * MIB)
    assert (first.address, first.size) == (small.address, 12 * MIB), "1 MiB is not split off"
    assert second.address == large.address
    third = allocator.allocate(20 * MIB)
    assert third.address == large.address + 14 * MIB
    assert allocator.allocate(20 * MIB, stream=1).address != third.address
    allocator.free(second)
    allocator.free(third)
    assert allocator.allocate(40 * MIB).address == large.address


@BOTH
def test_cached_memory_is_given_back_where_it_is_short(expandable: bool) -> None:
    allocator = CachingAllocator(100 * MIB, expandable=expandable)
    blocks = [allocator.allocate(20 * MIB) for _ in range(4)]
    for block in blocks[::2]:
        allocator.free(block)
    allocator.allocate(40 * MIB, stream=1)
    assert (allocator.reserved, allocator.allocated, allocator.flushes) == (80 * MIB, 80 * MIB, 1)
    allocator.free(blocks[1])
    allocator.free(blocks[3])
    allocator.release_cached()
    assert allocator.reserved == 40 * MIB


def test_only_expandable_segments_give_parts_back() -> None:
    for expandable, reserved in ((False, 100), (True, 40)):
        allocator = CachingAllocator(100 * MIB, expandable=expandable)
        allocator.free(allocator.allocate(100 * MIB))
        blocks = [allocator.allocate(20 * MIB) for _ in range(5)]
        for block in blocks[:3]:
            allocator.free(block)
        allocator.release_cached()
        assert allocator.reserved == reserved * MIB


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost(expandable: bool, seed: int) -> None:
    draw, allocator, live = (
        random.Random(seed),
        CachingAllocator(400 * MIB, expandable=expandable),
        list[Block](),
    )
    refused = 0
    for _ in range(600):
        if live and draw.random() < 0.45:
            allocator.free(live.pop(draw.randrange(len(live))))
        try:
            live.append(allocator.allocate(int(2 ** draw.uniform(8, 26)), draw.randrange(2)))
        except AllocatorFullError:
            refused += 1
        places = sorted((block.pool, block.address, block.size) for block in live)
        assert all(one[0] != other[0] or one[1] + one[2] <= other[1] for one, other in pairwise(places))
        assert sum(block.size for block in live) == allocator.allocated <= allocator.reserved <= 400 * MIB
    assert refused
    for block in live:
        allocator.free(block)
    allocator.release_cached()
    assert allocator.reserved == 0


@pytest.fixture(scope="module")
def traces() -> Traces:
    """Of the released model with 3 of its 42 blocks, which need fewer weights and conditions."""
    return full_traces(layers=3, steps=1, slices=2)


@pytest.mark.parametrize(
    ("limit", "ram"),
    [(4.5, 8)]
    + [pytest.param(*each, marks=pytest.mark.soak) for each in ((5, 64), (6, 64), (8.6, 8), (8.6, 64))],
)
def test_planned_runs_fit(traces: Traces, limit: float, ram: float) -> None:
    """A tenth of ``docs/measurements/fits.json``."""
    row = measure_row(traces, limit, ram)
    assert row["plan"].startswith("refused") or [row[kind]["failed"] for kind in KINDS] == ["", ""]


def test_a_run_that_is_not_planned_for_fails(traces: Traces) -> None:
    planned = plan(traces, 8.6, 64)
    assert (
        not Replay(traces=traces, plan=planned, allocator=CachingAllocator(planned.torch_limit)).run().failed
    )
    short = CachingAllocator(planned.peak - 100_000_000)
    assert "wanted" in Replay(traces=traces, plan=planned, allocator=short).run().failed
