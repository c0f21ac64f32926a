"""The speech features of a request, kept on disk until the video is finished, and the chart of its
loudness."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..jobs.job import SPEECH_DIRS
from ..media.audio import stream_mono
from ..media.loudness import GainCurve, LoudnessMeter
from ..media.plots import draw_speech
from ..models import Models
from ..residency import memory_stage
from ..speech.array_file import ArrayFile, write_array_file
from ..speech.encoder import encode_array_file, layer_files, read_from_files
from ..speech.features import Speech, warn_of_windows
from ..speech.vocals import stream_vocals
from ..speech.wav2vec2 import split_wav2vec2
from .progress import show_percent
from .request import AnimateRequest
from .session import Spoken

if TYPE_CHECKING:
    from ..speech.dialogue import Dialogue


class SpeechFeatures:
    """``folder`` belongs to the request's job; further recordings have folders beside it."""

    def __init__(self, request: AnimateRequest, folder: Path, recording: Spoken | None = None) -> None:
        self._request, self._folder = request, folder
        self._recording = recording or request.recordings[0]

    @cached_property
    def _all(self) -> list[SpeechFeatures]:
        """Those of every recording."""
        others = self._request.recordings[1:]
        folders = [self._folder.with_name(name) for name in SPEECH_DIRS[1 : len(others) + 1]]
        placed = zip(others, folders, strict=True)
        return [self, *(SpeechFeatures(self._request, folder, each) for each, folder in placed)]

    def draw_chart(self) -> Tensor:
        """A picture [3, h, w] of the recordings' loudness, silence and segments."""
        return torch.cat([each.draw_one_chart() for each in self._all], dim=1)

    def draw_one_chart(self) -> Tensor:
        request, (_, meter, gains) = self._request, self._recorded
        return draw_speech(meter, request.plan.starts, gains=gains, prompts=request.prompts)

    def compute(self, models: Models) -> Speech | Dialogue:
        """The recordings' features; layers that an earlier run completed are reused."""
        voices = self._request.voices
        if voices is None:
            return self.compute_one(models)
        return voices.join([each.compute_one(models) for each in self._all])

    def compute_one(self, models: Models) -> Speech:
        request, folder, plan = self._request, self._folder, self._recording.plan
        audio, windows = request.config.audio, request.preprocessing.windows(plan)
        layers = layer_files(folder, plan, audio.layers, audio.channels)
        if not all(layer.is_whole() for layer in layers):
            warn_of_windows(windows, plan)
            samples, meter, gains = self._recorded
            if gains is not None:
                starts = range(0, samples.rows, meter.sample_rate)
                pieces = (
                    samples.read(start, min(start + meter.sample_rate, samples.rows))[:, 0]
                    for start in starts
                )
                changed = (piece[:, None] for piece in gains.over(pieces))
                signal = write_array_file(folder / "changed.f32", changed, 1)
                samples.remove()
                samples = signal
            request.check_speech()
            with memory_stage("speech"), models.speech as network:
                parts, device = split_wav2vec2(network), next(network.parameters()).device
                encode_array_file(
                    parts, samples, plan, device, folder, windows=windows, open_progress=show_percent
                )
            samples.remove()
        return Speech(read_from_files(layers), plan, audio.window)

    @cached_property
    def _recorded(self) -> tuple[ArrayFile, LoudnessMeter, GainCurve | None]:
        """The mono signal [samples, 1] at the encoder's rate, how loud it is, and the gains to apply."""
        request, segment = self._request, self._request.config.segment
        meter = LoudnessMeter(segment.sample_rate, segment.fps)
        inputs = self._recording.path, segment.sample_rate, self._recording.stats
        if request.separator is None:
            pieces = stream_mono(*inputs)
        else:
            pieces = stream_vocals(*inputs, request.separator, show_percent)

        def measured_pieces() -> Iterator[Tensor]:
            left = self._recording.samples
            for piece in pieces:
                meter.add(heard := piece[:left])
                yield heard[:, None]
                left -= len(heard)
                if request.options.trial and not left:
                    break

        recorded = write_array_file(self._folder / "mono.f32", measured_pieces(), 1)
        return recorded, meter, request.preprocessing.make_gains(meter)
