"""``hallo3 tiny``: a complete model folder of small random weights."""

from __future__ import annotations

from argparse import Namespace

from ..random_set import write_random_set


def make_tiny(options: Namespace) -> None:
    """Write the set and say what it is."""
    config = write_random_set(options.folder, options.seed, options.size)
    segment = config.segment
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(
        f"{options.folder}: random {config.name} weights, {size / 1e6:.1f} MB, "
        f"{segment.width} x {segment.height}, {segment.frames} frames a segment. They animate nothing."
    )
