"""What the recording of a request sounds like to the model, kept on disk; and the picture of its loudness."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..media.audio import stream_mono
from ..media.loudness import GainCurve, LoudnessMeter
from ..media.plots import draw_speech
from ..models import Models
from ..speech.array_file import ArrayFile, write_array_file
from ..speech.chunked import encode_streamed, read_layers
from ..speech.features import Speech, tell
from ..speech.vocals import Separator, stream_voice
from ..speech.wav2vec2 import split_wav2vec2
from ..storage.atomic import write_atomic
from ..storage.hashing import hash_file
from .request import AnimateRequest

HEARD = "heard.json"
HIDDEN: dict[str, Any] = {
    "leave": False,
    "bar_format": "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
}
"""A bar that goes when it is full."""


class Ear:
    """Listens to the recording of a request. What it needs and finds is on disk in ``folder``."""

    def __init__(self, request: AnimateRequest, folder: Path) -> None:
        audio = request.config.audio
        rows, width = request.plan.padded, audio.channels
        self._request, self._folder = request, folder
        self._layers = [ArrayFile(folder / f"layer_{n:02}.f32", rows, width) for n in range(audio.layers)]

    def chart(self) -> Tensor:
        """A picture [3, h, w] of the recording as it is listened to."""
        _, loudness, gains = self._recorded
        return draw_speech(loudness, self._request.config.segment.new_frames, gains=gains)

    def listen(self, models: Models) -> Speech:
        """The recording's features. Layers that are there as they were written are used; the first time, and
        after a stop, the others are computed."""
        request, heard, layers = self._request, self._heard, self._layers
        plan, windows = request.plan, request.preprocessing.windows(request.plan)
        if len(heard) < len(layers):
            tell(windows, plan)
            samples = self._signal()
            request.check_speech()
            with models.speech as wav2vec2, tqdm(total=1.0, desc="listening", **HIDDEN) as bar:

                def watch(done: int, total: int) -> None:
                    bar.update(done / total - bar.n)
                    self._look()

                anatomy, device = split_wav2vec2(wav2vec2), next(wav2vec2.parameters()).device
                encode_streamed(anatomy, samples, plan, device, self._folder, watch, windows=windows)
            samples.remove()
            self._look()
        return Speech(read_layers(layers), plan, request.config.audio.window)

    @cached_property
    def _heard(self) -> dict[str, str]:
        """Hashes of the layers that are done."""
        return _sound(self._folder, self._layers)

    @cached_property
    def _recorded(self) -> tuple[ArrayFile, LoudnessMeter, GainCurve | None]:
        """The mono signal [samples, 1], how loud it is, and the gains that were asked for."""
        listening, segment = self._request.preprocessing, self._request.config.segment
        _clear(self._folder, set(self._heard) | {HEARD})
        loudness = listening.loudness(segment)
        recorded = write_array_file(self._folder / "mono.f32", _measured(_mono(self._request), loudness), 1)
        return recorded, loudness, listening.gains(loudness)

    def _signal(self) -> ArrayFile:
        """What the encoder hears, [samples, 1]."""
        recorded, _, gains = self._recorded
        if gains is None:
            return recorded
        second = self._request.config.segment.sample_rate
        starts = range(0, recorded.rows, second)
        pieces = (recorded.read(start, min(start + second, recorded.rows))[:, 0] for start in starts)
        changed = (piece[:, None] for piece in gains.over(pieces))
        signal = write_array_file(self._folder / "changed.f32", changed, 1)
        recorded.remove()
        return signal

    def _look(self) -> None:
        """Note the layers that have become complete."""
        for layer in self._layers[len(self._heard) :]:
            if layer.complete:
                note(self._folder, self._heard, layer)


def _mono(request: AnimateRequest) -> Iterator[Tensor]:
    """The recording in pieces [n] at the encoder's rate. What changes the sound itself, as taking out the
    voice does, belongs here: what is loud and what is silence is judged by what comes of it."""
    path, rate = request.speech, request.config.segment.sample_rate
    if request.separator is None:
        return stream_mono(path, rate, request.stats)
    return _voice(request, path, rate, request.separator)


def _voice(request: AnimateRequest, path: Path, sample_rate: int, separator: Separator) -> Iterator[Tensor]:
    with tqdm(total=1.0, desc="separating vocals", **HIDDEN) as bar:

        def watch(done: int, total: int) -> None:
            bar.update(done / total - bar.n)

        yield from stream_voice(path, sample_rate, request.stats, separator, watch)


def _measured(pieces: Iterator[Tensor], loudness: LoudnessMeter) -> Iterator[Tensor]:
    for piece in pieces:
        loudness.add(piece)
        yield piece[:, None]


def note(folder: Path, heard: dict[str, str], layer: ArrayFile) -> None:
    """Write down the hash of a layer that is complete."""
    heard[layer.path.name] = hash_file(layer.path)
    write_atomic(folder / HEARD, [json.dumps(heard).encode()])


def _clear(folder: Path, but: set[str]) -> None:
    """Take away what cannot be told to be sound."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in but:
                path.unlink()


def _sound(folder: Path, layers: list[ArrayFile]) -> dict[str, str]:
    """Hashes of the first layers that are there as they were written."""
    found: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        said: Any = json.loads((folder / HEARD).read_text(encoding="utf-8"))
        for layer in layers:
            if not layer.complete or said[layer.path.name] != hash_file(layer.path):
                break
            found[layer.path.name] = said[layer.path.name]
    return found
