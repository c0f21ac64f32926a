"""Rectangles on pictures."""

from __future__ import annotations

from typing import NamedTuple


class PixelBox(NamedTuple):
    """A rectangle in pixels: from ``left`` and ``top`` up to, without, ``right`` and ``bottom``."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Its pixels; 0 for one that is turned inside out."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def common(self, other: PixelBox) -> PixelBox:
        """What two boxes have in common; without area if that is nothing."""
        return PixelBox(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
