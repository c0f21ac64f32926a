"""A command of four NANO segments that tests stop and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from hallo3.cli.main import main
from hallo3.pipeline import LocalRenderer
from support.audio_samples import tone, write_wav


def inputs_in(folder: Path, model: Path) -> dict[str, str]:
    """Four NANO segments."""
    picture = np.random.default_rng(0).integers(0, 255, (80, 64, 3), np.uint8)
    Image.fromarray(picture).save(folder / "p.png")
    write_wav(folder / "s.wav", tone(16000, 2.2), 16000)
    return {
        "--model": str(model),
        "--portrait": str(folder / "p.png"),
        "--speech": str(folder / "s.wav"),
        "-o": str(folder / "v.mp4"),
    }


def record_rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices of segments that are rendered from now on."""
    indices: list[int] = []
    _before_sampling(monkeypatch, indices.append)
    return indices


def _before_sampling(patch: pytest.MonkeyPatch, work: Callable[[int], object]) -> None:
    real = LocalRenderer.sample

    def sample(self: LocalRenderer, latents: Any, segment: Any, noise: Any) -> Any:
        work(segment.index)
        return real(self, latents, segment, noise)

    patch.setattr(LocalRenderer, "sample", sample)


def run(inputs: dict[str, str], *flags: str, **changes: str) -> int:
    words = inputs | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return main(["animate", *(word for pair in words.items() for word in pair), *flags])


def before_segment(index: int, work: Callable[[], object]) -> pytest.MonkeyPatch:
    """Call ``work`` right before a segment is sampled; until the result is undone."""
    patch = pytest.MonkeyPatch()
    _before_sampling(patch, lambda number: work() if number == index else None)
    return patch


def stop_at(index: int, error: BaseException) -> pytest.MonkeyPatch:
    """Make a segment fail with ``error``; until the result is undone."""

    def fail() -> None:
        raise error

    return before_segment(index, fail)


def before(place: Any, name: str, work: Callable[[], object]) -> pytest.MonkeyPatch:
    """Something happens just before a function is called."""
    patch, real = pytest.MonkeyPatch(), getattr(place, name)

    def called(*arguments: Any, **named: Any) -> Any:
        work()
        return real(*arguments, **named)

    patch.setattr(place, name, called)
    return patch


def packets(path: str | Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = next(each for each in container.streams if each.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def frames_of(path: str | Path) -> np.ndarray:
    """A video's frames as they are stored."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
