"""One layer of wav2vec2 in pieces: a head at a time over what it attends to, then a block of frames at a
time over all heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .anatomy import Layer
from .convolved import Rows, Spans
from .windowed import Window

Cut = Callable[[int, int, int], Spans]
"""Start, stop and size -> pieces of that size, from start to stop."""


def attend(
    layer: Layer,
    head: int,
    hidden: Rows,
    device: torch.device,
    window: Window,
    cut: Cut,
    most: tuple[int, int],
) -> Iterator[Tensor]:
    """What one head sees from the frames that a window keeps, [n, D / heads] for each piece of them.

    ``cut(start, stop, size)`` makes pieces; ``most`` are the sizes, of keys and of queries. Keys and values
    of the whole window are held.
    """
    attention = layer.attention
    width = attention.q_proj.out_features // attention.num_heads
    part = slice(head * width, (head + 1) * width)
    seen, first = window.last - window.first, window.first
    keys, values = (torch.empty(1, 1, seen, width, device=device) for _ in range(2))
    for start, stop in cut(first, window.last, most[0]):
        states = hidden.read(start, stop).to(device)
        keys[0, 0, start - first : stop - first] = _project(attention.k_proj, states, part)
        values[0, 0, start - first : stop - first] = _project(attention.v_proj, states, part)
    for start, stop in cut(window.start, window.stop, most[1]):
        queries = _project(attention.q_proj, hidden.read(start, stop).to(device), part)
        yield F.scaled_dot_product_attention(queries[None, None], keys, values)[0, 0]


def _project(linear: nn.Linear, states: Tensor, part: slice) -> Tensor:
    """[n, D] -> [n, width]: some rows of a projection, whose weights may be stored in another type."""
    return F.linear(states, linear.weight[part].to(states), linear.bias[part].to(states))


def joined(
    layer: Layer, hidden: Rows, heads: Sequence[Rows], device: torch.device, spans: Spans
) -> Iterator[Tensor]:
    """The layer's output [n, D] for each span of frames, from its input and what its heads saw."""
    for start, stop in spans:
        seen = torch.cat([head.read(start, stop) for head in heads], dim=1).to(device)[None]
        states = hidden.read(start, stop).to(device)[None]
        states = layer.layer_norm(states + layer.attention.out_proj(seen))
        yield layer.final_layer_norm(states + layer.feed_forward(states))[0]
