"""Peak memory of a decode, computed from the shapes that ``decoder.py`` holds at a time; without weights and
the workspaces of convolution libraries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ..config import VAEConfig
from ..geometry import LatentShape
from .autoencoder import decode_slices
from .causal_conv import LOOK_BACK, DecodePlan, min_strips
from .decoder import MAX_CHUNK_ELEMENTS, repeats

PLANS = tuple(
    DecodePlan(1 << doublings, caches) for caches, n in (("device", 4), ("host", 5)) for doublings in range(n)
)
"""From the fastest to the smallest: caches in RAM cost more time than strips."""
FLOAT_BYTES = 4
MARGIN = 1.02
"""For all smaller tensors."""


def decode_bytes(
    config: VAEConfig, latent: LatentShape, plan: DecodePlan, number: int, *, on_cpu: bool = False
) -> int:
    """Peak bytes of activations in the decode of one clip with latents [T, h, w]; ``number`` is the bytes per
    number. At full size it is 0 to 15 % above a count operation by operation
    (tests/vae/test_decode_memory.py)."""
    sizes = decode_slices(latent.frames)
    channels = config.block_out_channels[:2][-1]  # of the input of the last level
    shapes = [latent._replace(frames=size) for size in sizes[:2]]
    strips = max(plan.strips, *(min_strips(channels, shape) for shape in shapes))
    slices = [_Slice(config, shape, strips, number, in_host=plan.caches == "host") for shape in shapes]
    if on_cpu:  # caches take memory when they are first written
        peak = max(slices[0].cached + sum(moment) for moment in slices[0].moments())
        peak = max(peak, *(slices[0].cached + sum(moment) for moment in slices[-1].moments()))
    else:
        peak = max(each.peak() for each in slices) + slices[0].cached
    frames = 3 * 4 * sizes[0] * 64 * latent.height * latent.width
    whole = config.latent_channels * latent.frames * latent.height * latent.width
    return round(MARGIN * (peak + (frames + whole) * number))


def convolution_scratch(config: VAEConfig, latent: LatentShape, plan: DecodePlan, number: int) -> int:
    """Bytes in which cuDNN converts the layout of the largest convolution's input and output."""
    channels, out = config.block_out_channels[:2][-1], config.block_out_channels[0]
    video_frames, height, width = latent._replace(frames=decode_slices(latent.frames)[0]).video
    rows = -(-latent.height // plan.strips) * (height // latent.height)
    return ((LOOK_BACK + video_frames) * channels + video_frames * out) * rows * width * number


def choose_decode_plan(config: VAEConfig, latent: LatentShape, number: int, free: int) -> DecodePlan:
    """The fastest of :data:`PLANS` that needs at most ``free`` bytes; the smallest if none does."""
    fitting = (plan for plan in PLANS if decode_bytes(config, latent, plan, number) <= free)
    return next(fitting, PLANS[-1])


@dataclass(slots=True)
class _Slice:
    """Memory of one slice, beside its causal caches on the device, ``cached``, which are made first."""

    config: VAEConfig
    latent: LatentShape
    strips: int
    number: int
    in_host: bool
    cached: int = 0

    def peak(self) -> int:
        """In strips, what is held is made once, and stays."""
        moments = [*self.moments()]
        if self._is_whole():
            return max(map(sum, moments))
        held, temporary = zip(*moments, strict=True)
        return max(held) + max(temporary)

    def moments(self) -> Iterator[tuple[int, int]]:
        """Bytes held, and of temporaries, at each moment that can be the peak."""
        widths = self.config.block_out_channels[::-1]
        frames = self.latent.frames
        entering = widths[0]
        for level, width in enumerate(widths):
            for index in range((2 if level == 0 else 0) + self.config.layers_per_block + 1):
                inside = widths[0] if level == 0 and index < 2 else width
                yield from self._resnet(entering, inside, frames, 2**level)
                entering = inside
            if level < len(widths) - 1:
                spans = repeats(frames, in_time=level < 2)  # two levels double the frames
                total = sum((last - first) * times for first, last, times in spans)
                yield self._upsample(width, frames, total, 2**level)
                frames = total
        yield self._convolution(entering, 3, frames, 2 ** (len(widths) - 1))

    def _resnet(self, entering: int, width: int, frames: int, scale: int) -> Iterator[tuple[int, int]]:
        x, hidden = self._size(entering, frames, scale), self._size(width, frames, scale)
        yield self._convolution(entering, width, frames, scale)
        held, temporary = self._convolution(width, width, frames, scale, in_place=True)
        yield x + held, temporary
        if entering != width:
            yield x + hidden, self._size(width, frames, scale, self._rows(scale))

    def _convolution(
        self, width: int, out: int, frames: int, scale: int, in_place: bool = False
    ) -> tuple[int, int]:
        """The input, a strip's buffer with halo rows of this strip and the next, and the larger of its
        temporaries and its output."""
        if not self.in_host:
            self.cached += self._size(width, LOOK_BACK, scale)
        whole, rows = self._is_whole(), self._rows(scale)
        norm = 2 * FLOAT_BYTES * width * prod(self.latent)  # scale and shift, at the latents' size
        earlier = 0 if in_place or whole else self._size(out, frames, scale)
        buffer = self._size(width, LOOK_BACK + frames, scale, rows if whole else rows + 6)
        staging = self._size(width, LOOK_BACK, scale, rows) if self.in_host else 0
        spread = 2 * FLOAT_BYTES * min(self._numbers(width, frames, scale, rows), MAX_CHUNK_ELEMENTS) // scale
        temporary = max(self._size(out, frames, scale, rows), staging, spread)
        return self._size(width, frames, scale) + norm + earlier + buffer, temporary

    def _upsample(self, width: int, frames: int, total: int, scale: int) -> tuple[int, int]:
        rows = self._rows(scale)
        at_once = max(1, MAX_CHUNK_ELEMENTS // (4 * self._numbers(width, 1, scale, rows)))
        large = 4 * self._size(width, min(at_once, frames), scale, rows if self._is_whole() else rows + 2)
        return self._size(width, frames, scale) + self._size(width, total, 2 * scale), 2 * large

    def _is_whole(self) -> bool:
        return self._rows(1) == self.latent.height

    def _rows(self, scale: int) -> int:
        """Of the highest strip."""
        return scale * -(-self.latent.height // self.strips)

    def _numbers(self, width: int, frames: int, scale: int, rows: int) -> int:
        return width * frames * rows * self.latent.width * scale

    def _size(self, width: int, frames: int, scale: int, rows: int | None = None) -> int:
        """Bytes of channels, frames and rows (default: all)."""
        height = self.latent.height * scale if rows is None else rows
        return self.number * self._numbers(width, frames, scale, height)
