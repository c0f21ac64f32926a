"""A model of PyTorch's caching allocator for CUDA, which runs on any machine: whether a sequence of
allocations fits a limit.

As in ``c10/cuda/CUDACachingAllocator.cpp``: requests are rounded to 512 bytes; each stream has a pool for
requests up to 1 MiB and one for larger ones; a pool grows by segments of 2 MiB, 20 MiB, or for 10 MiB and
more a multiple of 2 MiB; the smallest free block that suffices is split; free neighbours are merged. Where a
new segment would exceed the limit, all segments that are free as a whole are given back, and the request is
tried once more. With ``expandable`` segments a pool has one range of addresses, of which pieces are mapped
when they are needed and unmapped when they are free.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass

MIB = 1 << 20
UNIT = 512
SMALL = MIB
SMALL_SEGMENT, LARGE_SEGMENT, LARGEST_SHARED = 2 * MIB, 20 * MIB, 10 * MIB
ADDRESSES = 1 << 50  # of a range

Pool = tuple[int, bool]
"""A stream, and whether requests are small."""


class AllocatorFullError(Exception):
    """A request that the limit does not allow."""


@dataclass(slots=True, eq=False)
class Block:
    pool: Pool
    address: int
    size: int
    is_free: bool = False
    is_mapped: bool = True
    before: Block | None = None
    after: Block | None = None

    def split(self, size: int) -> Block:
        """Keep the first ``size`` bytes; returns the rest."""
        rest = Block(self.pool, self.address + size, self.size - size, before=self, after=self.after)
        rest.is_mapped = self.is_mapped
        if self.after is not None:
            self.after.before = rest
        self.after, self.size = rest, size
        return rest

    def take_next(self) -> None:
        """Append the block after this one."""
        taken = self.after
        assert taken is not None
        self.size += taken.size
        self.after = taken.after
        if self.after is not None:
            self.after.before = self


class CachingAllocator:
    """Allocates up to ``limit`` bytes. ``flushes`` counts how often what was cached had to be given back."""

    def __init__(self, limit: int, *, expandable: bool = False) -> None:
        self.limit, self.expandable = limit, expandable
        self.reserved = self.allocated = self.reserved_peak = self.allocated_peak = self.flushes = 0
        self._free = defaultdict[Pool, list[tuple[int, int, Block]]](list)  # size, address
        self._ranges: dict[Pool, Block] = {}
        self._segments = 0

    def allocate(self, size: int, stream: int = 0) -> Block:
        """Raises ``AllocatorFullError``."""
        size = max(UNIT, -(-size // UNIT) * UNIT)
        pool = stream, size <= SMALL
        block = self._find(pool, size) or self._grow(pool, size)
        if block is None:
            self.flushes += 1
            self.release_cached()
            block = self._grow(pool, size)
        if block is None:
            raise AllocatorFullError(
                f"{size / 1e6:.0f} MB wanted on stream {stream}, {self.allocated / 1e9:.2f} of "
                f"{self.limit / 1e9:.2f} GB allocated, {self.reserved / 1e9:.2f} reserved"
            )
        rest = block.size - size
        if rest >= UNIT if pool[1] or self.expandable else rest > SMALL:
            self._put(block.split(size))
        self.allocated += block.size
        self.allocated_peak = max(self.allocated_peak, self.allocated)
        return block

    def free(self, block: Block) -> None:
        self.allocated -= block.size
        self._put(block)

    def release_cached(self) -> None:
        """What ``torch.cuda.empty_cache`` does."""
        for block in [block for own in self._free.values() for _, _, block in own]:
            if self.expandable:
                self._unmap(block)
            elif block.before is None and block.after is None:
                self._take(block)
                self.reserved -= block.size

    def _find(self, pool: Pool, size: int) -> Block | None:
        free = self._free[pool]
        place = bisect_left(free, (size, 0))
        if place == len(free):
            return None
        block = free[place][2]
        self._take(block)
        return block

    def _grow(self, pool: Pool, size: int) -> Block | None:
        """A block of a new segment; None if the limit does not allow it."""
        if self.expandable:
            return self._map(pool, size)
        segment = SMALL_SEGMENT if pool[1] else LARGE_SEGMENT
        segment = segment if size < LARGEST_SHARED else -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        if not self._reserve(segment):
            return None
        self._segments += 1
        return Block(pool, self._segments * ADDRESSES, segment)

    def _reserve(self, size: int) -> bool:
        if self.reserved + size > self.limit:
            return False
        self.reserved += size
        self.reserved_peak = max(self.reserved_peak, self.reserved)
        return True

    def _map(self, pool: Pool, size: int) -> Block | None:
        """At the first unmapped addresses that, with a free block before them, have room."""
        if pool not in self._ranges:
            self._ranges[pool] = Block(pool, 0, ADDRESSES, is_free=True, is_mapped=False)
        block: Block | None = self._ranges[pool]
        while block is not None:
            start, room, last = block, 0, block
            while last is not None and last.is_free and room < size:
                room, last = room + last.size, last.after
            if room >= size:
                break
            block = last.after if last is not None else None
        assert block is not None
        start, piece = block, SMALL_SEGMENT if pool[1] else LARGE_SEGMENT
        if start.is_mapped:
            self._take(start)
        elif not self._map_start(start, size, piece):
            return None
        while start.size < size:
            after = start.after
            assert after is not None
            if after.is_mapped:
                self._take(after)
            elif not self._map_start(after, size - start.size, piece):
                self._put(start)
                return None
            start.take_next()
        start.is_free = False
        return start

    def _map_start(self, block: Block, size: int, piece: int) -> bool:
        """Map the start of an unmapped block."""
        size = min(block.size, -(-size // piece) * piece)
        if not self._reserve(size):
            return False
        if size < block.size:
            block.split(size).is_free = True
        block.is_mapped, block.is_free = True, False
        return True

    def _unmap(self, block: Block) -> None:
        """The whole pieces of a free block."""
        piece = SMALL_SEGMENT if block.pool[1] else LARGE_SEGMENT
        first = -(-block.address // piece) * piece
        last = (block.address + block.size) // piece * piece
        if last <= first:
            return
        self._take(block)
        middle = block.split(first - block.address) if first > block.address else block
        if last < middle.address + middle.size:
            self._put(middle.split(last - middle.address))
        if middle is not block:
            self._put(block)
        middle.is_mapped, middle.is_free = False, True
        self.reserved -= middle.size
        if middle.after is not None and not middle.after.is_mapped:
            middle.take_next()
        if middle.before is not None and not middle.before.is_mapped:
            middle.before.take_next()

    def _put(self, block: Block) -> None:
        """Free a block, merged with its free neighbours."""
        before, after = block.before, block.after
        if after is not None and after.is_free and after.is_mapped:
            self._take(after)
            block.take_next()
        if before is not None and before.is_free and before.is_mapped:
            self._take(before)
            before.take_next()
            block = before
        block.is_free = True
        insort(self._free[block.pool], (block.size, block.address, block))

    def _take(self, block: Block) -> None:
        free = self._free[block.pool]
        free.pop(bisect_left(free, (block.size, block.address)))
        block.is_free = False
