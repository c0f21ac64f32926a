"""What a decode holds at its peak, by a closed count of what the walk makes and lets go of.

Weights and what convolution libraries take for themselves are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..config import VAEConfig
from ..geometry import LatentShape
from .autoencoder import decode_slices
from .decoder import repeats
from .spatial_norm import LARGE_PIECE
from .tiling import LOOK_BACK, DecodePlan, cuts, least_strips

PLANS = tuple(
    DecodePlan(strips, caches)
    for caches, most in (("device", 8), ("host", 16))
    for strips in (1, 2, 4, 8, 16)
    if strips <= most
)
"""From the quickest to the smallest: caches in the host's memory cost more time than strips."""
DOUBLINGS_IN_TIME = 2
"""Levels of the decoder that double the frames."""
COUNTED = 4
"""Bytes of a number that is counted in: float32."""
MARGIN = 1.02
"""For what is too small to be named here."""


def decode_bytes(config: VAEConfig, latent: LatentShape, plan: DecodePlan, number: int) -> int:
    """Bytes of activations at the peak of a decode of one clip.

    ``latent`` is the clip's [T, h, w], ``number`` the bytes of a number. At full size this is what a
    count operation by operation finds, or up to 15 % more (tests/vae/test_decode_cost.py).
    """
    sizes = decode_slices(latent.frames)
    channels = _entering(config)[-1]
    shapes = [latent._replace(frames=size) for size in sizes[:2]]
    strips = max(plan.strips, *(least_strips(channels, shape) for shape in shapes))
    kept, peak = 0, 0
    for shape in shapes:
        slice_cost = _Slice(config, shape, strips, number, in_host=plan.caches == "host", kept=kept)
        peak = max(peak, *slice_cost.moments())
        kept = slice_cost.kept
    frames = 3 * 4 * sizes[0] * 64 * latent.height * latent.width
    whole = config.latent_channels * latent.frames * latent.height * latent.width
    return round(MARGIN * (peak + (frames + whole) * number))


def plan_for(config: VAEConfig, latent: LatentShape, number: int, free: int) -> DecodePlan:
    """The quickest of :data:`PLANS` that holds no more than ``free`` bytes; the smallest if none does."""
    fitting = (plan for plan in PLANS if decode_bytes(config, latent, plan, number) <= free)
    return next(fitting, PLANS[-1])


def _entering(config: VAEConfig) -> list[int]:
    """Channels that enter each level."""
    widths = config.block_out_channels[::-1]
    return [widths[0], *widths[:-1]]


@dataclass(slots=True)
class _Slice:
    """A slice on its way; ``kept`` grows by what its convolutions leave on the device."""

    config: VAEConfig
    latent: LatentShape
    strips: int
    number: int
    in_host: bool
    kept: int

    def moments(self) -> Iterator[int]:
        """Bytes held at every moment that can be the peak."""
        widths = self.config.block_out_channels[::-1]
        frames, first_slice = self.latent.frames, self.kept == 0
        entering = widths[0]
        for level, width in enumerate(widths):
            for index in range((2 if level == 0 else 0) + self.config.layers_per_block + 1):
                inside = widths[0] if level == 0 and index < 2 else width
                yield from self._resnet(entering, inside, frames, 2**level, grows=first_slice)
                entering = inside
            if level < len(widths) - 1:
                yield self._upsampled(width, frames, level)
                frames = sum((last - first) * times for first, last, times in self._repeats(frames, level))
        yield self._convolution(entering, 3, frames, 2 ** (len(widths) - 1), grows=first_slice)

    def _resnet(self, entering: int, width: int, frames: int, scale: int, *, grows: bool) -> Iterator[int]:
        x = self._size(entering, frames, scale)
        yield self._convolution(entering, width, frames, scale, grows=grows)
        hidden = self._size(width, frames, scale)
        yield x + self._convolution(width, width, frames, scale, grows=grows, in_place=True)
        if entering != width:
            copied = 0 if self._count() == 1 else self._size(entering, frames, scale, self._rows(scale))
            yield self.kept + x + hidden + copied + self._size(width, frames, scale, self._rows(scale))

    def _convolution(
        self, width: int, out: int, frames: int, scale: int, *, grows: bool, in_place: bool = False
    ) -> int:
        """The input, a strip's buffer, and beside them what the strip is made of or what becomes of it."""
        if grows and not self.in_host:
            self.kept += self._size(width, LOOK_BACK, scale)
        alone = self._count() == 1
        rows = self._rows(scale)
        whole = 0 if alone else self._size(width if in_place else out, frames, scale)
        before = 0 if in_place and not alone else whole
        buffer = self._size(width, LOOK_BACK + frames, scale, rows if alone else rows + 2)
        made = self._size(out, frames, scale, rows)
        staged = self._size(width, LOOK_BACK, scale, rows) if self.in_host else 0
        spread = 2 * COUNTED * min(self._numbers(width, frames, scale, rows), LARGE_PIECE) // scale
        filling = max(staged, spread)
        above = self._above(width, frames, scale)
        beside = self.kept + self._size(width, frames, scale) + self._known(width)
        return beside + before + buffer + above + max(made, filling)

    def _upsampled(self, width: int, frames: int, level: int) -> int:
        scale, rows = 2**level, self._rows(2**level)
        total = sum((last - first) * times for first, last, times in self._repeats(frames, level))
        at_once = max(1, LARGE_PIECE // (4 * self._numbers(width, 1, scale, rows)))
        edge = 0 if self._count() == 1 else 2
        large = 4 * self._size(width, min(at_once, frames), scale, rows + edge)
        return self.kept + self._size(width, frames, scale) + self._size(width, total, 2 * scale) + 2 * large

    def _repeats(self, frames: int, level: int) -> list[tuple[int, int, int]]:
        return repeats(frames, in_time=level < DOUBLINGS_IN_TIME)

    def _known(self, width: int) -> int:
        """Scale and shift of a norm at the latents' size."""
        return 2 * COUNTED * width * self.latent.frames * self.latent.height * self.latent.width

    def _above(self, width: int, frames: int, scale: int) -> int:
        """Rows carried on from one strip, and those from the one before."""
        return 0 if self._count() == 1 else self._size(width, LOOK_BACK + frames, scale, 4)

    def _count(self) -> int:
        return len(cuts(self.latent.height, self.strips, 1))

    def _rows(self, scale: int) -> int:
        return max(last - first for first, last in cuts(self.latent.height, self.strips, scale))

    def _numbers(self, width: int, frames: int, scale: int, rows: int) -> int:
        return width * frames * rows * self.latent.width * scale

    def _size(self, width: int, frames: int, scale: int, rows: int | None = None) -> int:
        """Bytes of so many channels, frames and rows (all of them if not said)."""
        found = self.latent.height * scale if rows is None else rows
        return self.number * self._numbers(width, frames, scale, found)
