"""What a device can do at best: matrix products, copies, and attention at the shape of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.streamed import Clock, Row
from hallo3.attention_backend import BACKENDS, list_runnable
from hallo3.config import Hallo3Config

PRODUCT = "matrix product"


def measure_products(clock: Clock, dtype: torch.dtype, side: int, sustained: float = 0.0) -> Row:
    """A product of two random matrices; shares of other rows are of its ``tflops``. Repeated for
    ``sustained`` seconds it shows what power and heat leave of them."""
    one, other = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    size, flop = f"{side}^3 {str(dtype).removeprefix('torch.')}", 2 * side**3
    if not sustained:
        return {"size": size} | clock.measure(lambda: one @ other, flop)
    begun, count, took = time.perf_counter(), 0, 0.0
    while took < sustained:
        for _ in range(20 if clock.cuda else 1):
            _ = one @ other
        clock.wait()
        count, took = count + (20 if clock.cuda else 1), time.perf_counter() - begun
    each = took / count
    return {"size": size, "seconds": each, "count": count, "tflops": flop / each / 1e12}


def copy_rows(clock: Clock, size: int) -> dict[str, Callable[[], Row]]:
    """GB/s of a copy on the device, which reads and writes, and from pinned and pageable memory to it."""
    sources: dict[str, bool | None] = {"copy on the device": None}
    if clock.cuda:
        sources |= {"copy to it, locked": True, "copy to it, pageable": False}

    def measure_copy(pinned: bool | None) -> Row:
        target = torch.empty(size, dtype=torch.uint8, device=clock.device)
        source = (
            torch.randint(255, (size,), dtype=torch.uint8, device=clock.device)
            if pinned is None
            else torch.empty(size, dtype=torch.uint8, pin_memory=pinned).fill_(1)
        )
        row = clock.measure(lambda: target.copy_(source, non_blocking=True))
        moved = size * (2 if pinned is None else 1)
        rate = {"gb_per_s": moved / row["seconds"] / 1e9} if "seconds" in row else {}
        return {"size": f"{size / 1e9:.3g} GB"} | row | rate

    return {name: partial(measure_copy, pinned) for name, pinned in sources.items()}


def attention_rows(
    clock: Clock, config: Hallo3Config, dtype: torch.dtype
) -> dict[str, tuple[Callable[[], Row], float]]:
    """Every backend that runs here, in the shape of a step with both branches, and its FLOP; on CUDA without
    "math", which would store all scores."""
    trunk, latent = config.trunk, config.segment.shape.latent
    queries = trunk.text_tokens + latent.frames * latent.tokens_per_frame
    keys = queries + latent.tokens_per_frame
    flop = 4 * 2 * trunk.heads * trunk.head_dim * queries * keys

    @cache
    def tokens() -> list[Tensor]:
        shapes = ((2, trunk.heads, count, trunk.head_dim) for count in (queries, keys, keys))
        return [torch.randn(shape, device=clock.device, dtype=dtype) for shape in shapes]

    def measure_backend(name: str) -> Row:
        row = clock.measure(lambda: BACKENDS[name](*tokens()), flop)
        return {"exact": BACKENDS[name].exact, "size": f"{queries} x {keys}"} | row

    names = list_runnable(clock.device, dtype, trunk.head_dim)
    names = [name for name in names if not (clock.cuda and name == "math")]
    return {name: (partial(measure_backend, name), flop) for name in names}


def fastest(rows: Mapping[str, Row], *, exact: bool = True) -> str:
    """The fastest backend, or the fastest ``exact`` one; torch's own choice if none was measured."""
    times = {
        name: row["seconds"] for name, row in rows.items() if "seconds" in row and (row["exact"] or not exact)
    }
    return min(times, key=lambda name: times[name], default="auto")
