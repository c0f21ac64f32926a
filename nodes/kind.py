"""Which runs take as long a segment as one another, as plans and videos know them."""

from __future__ import annotations

from ..hallo3.media.encoding import Encoding


def kind_of(
    model: str, device: str, evaluations: int, size: tuple[int, int], encoding: Encoding, cache: float = 0.0
) -> str:
    """By what runs are known that take as long a segment; ``cache`` is the step cache's threshold."""
    work = f"{evaluations} evaluations {f'step cache {cache:g} ' if cache else ''}"
    return f"{model} {device} {work}{size[0]}x{size[1]} {encoding.facts()}"
