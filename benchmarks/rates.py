"""What a device can do at best: matrix products, copies on it and to it, attention by itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.timing import Clock, Row
from hallo3.attention import BACKENDS, list_runnable
from hallo3.config import Hallo3Config

GB = 1_000_000_000


def product_rate(clock: Clock, dtype: torch.dtype, side: int) -> Row:
    """A product of two random matrices; ``tflops`` is the rate that shares are counted of."""
    one, other = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    return {"size": f"{side}^3 {_short(dtype)}"} | clock.measure(lambda: one @ other, 2 * side**3)


def copy_rates(clock: Clock, size: int) -> dict[str, Row]:
    """GB/s of a copy on the device, which reads and writes, and of copies to it from memory that is locked
    and memory that is not."""
    there = torch.empty(size, dtype=torch.uint8, device=clock.device)
    source = torch.randint(255, (size,), dtype=torch.uint8, device=clock.device)
    found = {"copy on the device": _rate(clock, source, there, 2 * size)}
    if clock.cuda:
        for name, locked in (("copy to it, locked", True), ("copy to it, pageable", False)):
            home = torch.empty(size, dtype=torch.uint8, pin_memory=locked).fill_(1)
            found[name] = _rate(clock, home, there, size)
    return found


def _rate(clock: Clock, source: Tensor, there: Tensor, moved: int) -> Row:
    row = clock.measure(lambda: there.copy_(source, non_blocking=True))
    size = f"{source.nbytes / 1e9:.3g} GB"
    return {"size": size} | row | ({"gb_per_s": moved / row["seconds"] / 1e9} if "seconds" in row else {})


def attention_rates(clock: Clock, config: Hallo3Config, dtype: torch.dtype) -> dict[str, Row]:
    """Every backend that runs here, at the shape of a step with both branches; on CUDA without "math", which
    would store all scores."""
    trunk, latent = config.trunk, config.segment.shape.latent
    queries = trunk.text_tokens + latent.frames * latent.tokens_per_frame
    keys = queries + latent.tokens_per_frame
    q, k, v = (
        torch.randn(2, trunk.heads, count, trunk.head_dim, device=clock.device, dtype=dtype)
        for count in (queries, keys, keys)
    )
    flop = 4 * 2 * trunk.heads * trunk.head_dim * queries * keys
    found: dict[str, Row] = {}
    for name in list_runnable(clock.device, dtype, trunk.head_dim):
        backend = BACKENDS[name]
        if clock.cuda and name == "math":
            continue
        row = clock.measure(lambda attend=backend: attend(q, k, v), flop)
        found[name] = {"exact": backend.exact, "size": f"{queries} x {keys}"} | row
    return found


def fastest_exact(found: Mapping[str, Row]) -> str:
    """The fastest exact backend that was measured; torch's own choice if none was."""
    times = {name: row["seconds"] for name, row in found.items() if row["exact"] and "seconds" in row}
    return min(times, key=lambda name: times[name], default="auto")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
