"""``hallo3.render`` of version 0.1, kept for one release."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from .noise import Noise
from .pipeline import Frames, MemoryStore, render
from .segments import Segment, SegmentPlan


@dataclass(frozen=True, slots=True)
class _Callables:
    """A renderer made of three functions that bring their own noise."""

    encode_: Callable[[Tensor, Segment], Tensor]
    sample_: Callable[[Tensor, Segment], Tensor]
    decode_: Callable[[Tensor], Iterator[Tensor]]

    def encode(self, pixels: Tensor, segment: Segment, noise: Noise) -> Tensor:
        del noise
        return self.encode_(pixels, segment)

    def sample(self, image_latents: Tensor, segment: Segment, noise: Noise) -> Tensor:
        del noise
        return self.sample_(image_latents, segment)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        return self.decode_(latents)


def render_with_callables(
    canvas: Tensor,
    plan: SegmentPlan,
    *,
    encode: Callable[[Tensor, Segment], Tensor],
    sample: Callable[[Tensor, Segment], Tensor],
    decode: Callable[[Tensor], Iterator[Tensor]],
    noise: Noise,
    motion_drop: float,
) -> Iterator[Frames]:
    """``hallo3.render`` of version 0.1, kept for one release."""
    renderer = _Callables(encode, sample, decode)
    yield from render(canvas, plan, renderer, MemoryStore(noise), motion_drop=motion_drop)
