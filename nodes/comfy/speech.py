"""A speech encoder socket -> the two halves of wav2vec2 that we run ourselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.audio_encoders.wav2vec2
import comfy.model_management as mm
import comfy.utils
import folder_paths
import torch
from torch import Tensor
from torch.nn import functional as F

from ...hallo3.checkpoints.locate import VOCALS, ModelFolder
from ...hallo3.config import HALLO3, SegmentConfig
from ...hallo3.errors import InputError
from ...hallo3.media.audio import Recording, to_mono
from ...hallo3.media.plots import draw_speech
from ...hallo3.segments import SegmentPlan, plan_segments
from ...hallo3.speech.chunked import encode_aside
from ...hallo3.speech.features import ReadFeatures, Speech, Windows, in_memory, tell
from ...hallo3.speech.preprocess import ORIGINAL_PREPROCESSING, SpeechPreprocessing
from ...hallo3.speech.vocals import Separator, voice_of
from ...hallo3.speech.wav2vec2 import Encoder, Wav2Vec2, Wav2Vec2Parts, encode_waveform, split_wav2vec2
from ...hallo3.storage.hashing import hash_tensor
from .builtin import BuiltInSpeechEncoder
from .progress import show_messages

VOCALS_STEPS = 1000


def file_seen() -> list[Any] | None:
    """The separator's file and when it changed, None if there is none."""
    path = ModelFolder(Path(folder_paths.models_dir)).vocals
    return None if path is None else [str(path), path.stat().st_mtime_ns, path.stat().st_size]


def vocals_of(recording: Recording, sample_rate: int) -> Tensor:
    """The recording without its music, mono [samples] at a rate; ComfyUI can stop it after every window.

    Raises ``CheckpointError`` where the file is missing or another, ``DependencyError`` without onnxruntime,
    ``AudioError`` for a recording that cannot be used.
    """
    models = ModelFolder(Path(folder_paths.models_dir))
    bar = comfy.utils.ProgressBar(VOCALS_STEPS)

    def watch(done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(VOCALS_STEPS * done // max(1, total))

    separator = Separator(models.vocals or models.path / VOCALS[0])
    return voice_of(recording, sample_rate, separator, watch)


LONG = 120
"""Seconds of sound that are processed at once; of longer recordings a piece at a time, with the same result
but for rounding."""
PROGRESS_STEPS = 1000
AT_ONCE = 1 << 20
"""Samples whose loudness is measured at once."""


@dataclass(frozen=True, slots=True)
class Halves:
    """ComfyUI's wav2vec2 in transformers' terms: its features come channels last, its projection alone."""

    network: Any

    def feature_extractor(self, signal: Tensor) -> Tensor:
        """Signal [1, samples] -> [1, C, t]."""
        return self.network.feature_extractor(signal).transpose(1, 2)

    def feature_projection(self, features: Tensor) -> tuple[Tensor]:
        """[1, frames, C] -> ([1, frames, D],)."""
        return (self.network.feature_projection(features),)

    @property
    def encoder(self) -> Encoder:
        """The layers, called one by one."""
        return self.network.encoder

    def anatomy(self) -> Wav2Vec2Parts:
        """Its parts, for ``encode_streamed``; the weights are used in float32 whatever they are stored in."""
        convolutions, encoder = self.network.feature_extractor.conv_layers, self.network.encoder
        return Wav2Vec2Parts(
            first=convolutions[0],
            others=tuple(convolutions[1:]),
            activation=F.gelu,
            project=self.network.feature_projection,
            positions=encoder.pos_conv_embed,
            norm=encoder.layer_norm,
            layers=tuple(encoder.layers),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSocket:
    """What a HALLO3_SPEECH socket carries: the features, the recording for the video's sound, and the hash of
    what was ``heard`` of it."""

    speech: Speech
    recording: Recording
    heard: str = ""


def listen(
    audio_encoder: Any,
    recording: Recording,
    listening: SpeechPreprocessing = ORIGINAL_PREPROCESSING,
    *,
    vocals: bool = False,
) -> tuple[SpeechSocket, Tensor]:
    """A recording's features by an AUDIO_ENCODER, computed in float32 whatever its weights are stored in;
    and a plot [3, h, w] of its loudness. With ``vocals`` music is taken away first.

    Raises ``AudioError`` for a recording that cannot be used, ``InputError`` for another encoder, and what
    ``vocals_of`` does.
    """
    halves, segment = _halves(audio_encoder)
    loudness = listening.loudness(segment)
    with show_messages():
        waveform = (vocals_of if vocals else to_mono)(recording, segment.sample_rate)
        plan = plan_segments(len(waveform), segment)
        for piece in waveform.split(AT_ONCE):
            loudness.add(piece)
        gains = listening.gains(loudness)
        windows = listening.windows(plan)
        tell(windows, plan)
    at_once = min(len(waveform), LONG * segment.sample_rate)
    widest = 512 * at_once // 5  # the first convolution's output, a few times over
    mm.load_models_gpu([audio_encoder.patcher], memory_required=4 * widest * mm.dtype_size(torch.float32))
    waveform = waveform.to(torch.float32)
    if gains is not None:
        waveform = torch.cat(list(gains.over(waveform.split(AT_ONCE))))
    heard = hash_tensor(waveform)
    if len(waveform) > at_once:
        read = _streamed(halves, waveform, plan, audio_encoder.load_device, windows)
    else:
        read = in_memory(encode_waveform(halves, waveform, plan, audio_encoder.load_device))
    socket = SpeechSocket(speech=Speech(read, plan, HALLO3.audio.window), recording=recording, heard=heard)
    return socket, draw_speech(loudness, segment.new_frames, gains=gains)


def _streamed(
    halves: Any, waveform: Tensor, plan: SegmentPlan, device: torch.device, windows: Windows | None
) -> ReadFeatures:
    """A long recording's features, in ComfyUI's temporary folder for as long as somebody can ask for them."""
    inside = Path(folder_paths.get_temp_directory())
    inside.mkdir(parents=True, exist_ok=True)
    bar = comfy.utils.ProgressBar(PROGRESS_STEPS)

    def watch(done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(PROGRESS_STEPS * done // max(1, total))

    anatomy = halves.anatomy() if isinstance(halves, Halves) else split_wav2vec2(halves)
    return encode_aside(anatomy, waveform, plan, device, watch, windows=windows, inside=inside)


def _halves(audio_encoder: Any) -> tuple[Wav2Vec2, SegmentConfig]:
    if isinstance(audio_encoder, BuiltInSpeechEncoder):
        return audio_encoder.model, audio_encoder.segment
    network: Any = getattr(audio_encoder, "model", None)
    base = isinstance(network, comfy.audio_encoders.wav2vec2.Wav2Vec2Model)
    if not base or network.encoder.do_stable_layer_norm:
        raise InputError(
            "This audio encoder is not the one Hallo3 listens with.",
            found=type(network).__name__ + (", large" if base else ""),
            expected="wav2vec2-base-960h",
            fix="load it with Load Audio Encoder, or use that of Load Hallo3 Built-in",
        )
    return Halves(network), HALLO3.segment
