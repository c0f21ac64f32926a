"""A recording -> speech features, by an AUDIO_ENCODER of ComfyUI or the built-in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.audio_encoders.wav2vec2
import comfy.model_management as mm
import folder_paths
import torch
from torch import Tensor

from ...hallo3.config import HALLO3, SegmentConfig
from ...hallo3.errors import InputError
from ...hallo3.media.audio import Recording, to_mono
from ...hallo3.media.loudness import GainCurve, LoudnessMeter
from ...hallo3.media.plots import draw_speech
from ...hallo3.residency import try_again
from ...hallo3.segments import SegmentPlan, plan_segments
from ...hallo3.speech.dialogue import Dialogue
from ...hallo3.speech.encoder import MAX_SECONDS_IN_MEMORY, compute_features
from ...hallo3.speech.features import ReadFeatures, Speech, warn_of_windows
from ...hallo3.speech.preprocess import SpeechPreprocessing
from ...hallo3.speech.vocals import Separator, separate_vocals
from ...hallo3.speech.wav2vec2 import Wav2Vec2Parts, split_wav2vec2
from ...hallo3.storage.hashing import hash_tensor
from .builtin import BuiltInSpeechEncoder
from .memory import SecondTry
from .people import fit_windows
from .places import find_vocals
from .progress import show_messages, show_progress
from .workflow import NAMED_FILES, file_state


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SpeechSocket:
    """A HALLO3_SPEECH: features, the recording for the video's sound, the hash of the preprocessed signal,
    and what a chart of it shows: how loud it was recorded, and the gains."""

    speech: Speech | Dialogue
    recording: Recording
    signal_hash: str
    loudness: LoudnessMeter
    gains: GainCurve | None

    @property
    def voices(self) -> int:
        return len(self.speech.voices) if isinstance(self.speech, Dialogue) else 1

    def windows(self, segment: int, people: int) -> Tensor:
        """A segment's windows, of a number of people, 0 for one."""
        return fit_windows(self.speech.segment(segment), people)


def vocals_fingerprint() -> list[Any] | None:
    """The separator's file and when it changed; None if it is missing."""
    return [str(path), *file_state(path)] if (path := find_vocals()).is_file() else None


def encode_speech(
    audio_encoder: Any,
    recording: Recording,
    preprocessing: SpeechPreprocessing,
    *,
    vocals: bool,
    cut: Callable[[SegmentPlan, Tensor], SegmentPlan],
) -> tuple[SpeechSocket, Tensor]:
    """The recording's features, computed in float32 whatever the weights' type, and a chart [3, h, w] of its
    loudness. ``vocals`` removes music first; ``cut`` gets the plan and the levels, and returns the plan to
    use. Raises ``AudioError``, ``InputError`` for another encoder, with
    ``vocals`` also ``CheckpointError`` and ``DependencyError``."""
    parts, segment = _encoder_parts(audio_encoder)
    with show_messages():
        if vocals:
            waveform = separate_vocals(
                recording, segment.sample_rate, Separator(find_vocals()), show_progress
            )
        else:
            waveform = to_mono(recording, segment.sample_rate)
        plan = plan_segments(len(waveform), segment)
        waveform, meter, gains = preprocessing.apply(waveform, segment)
        plan = cut(plan, meter.levels)
        windows = preprocessing.windows(plan)
        warn_of_windows(windows, plan)
    samples = min(len(waveform), MAX_SECONDS_IN_MEMORY * segment.sample_rate)
    memory = 4 * (512 * samples // 5) * mm.dtype_size(torch.float32)  # the first convolution's output
    directory = Path(folder_paths.get_temp_directory())
    directory.mkdir(parents=True, exist_ok=True)
    before = set(directory.iterdir())

    def listen() -> ReadFeatures:
        mm.load_models_gpu([audio_encoder.patcher], memory_required=memory)
        return compute_features(
            parts,
            waveform,
            plan,
            audio_encoder.load_device,
            windows=windows,
            open_progress=show_progress,
            directory=directory,
        )

    read = try_again(listen, SecondTry(audio_encoder.load_device), "speech")
    for folder in set(directory.iterdir()) - before:  # with the features of a long recording
        NAMED_FILES.add(folder)
    socket = SpeechSocket(
        speech=Speech(read, plan, HALLO3.audio.window),
        recording=recording,
        signal_hash=hash_tensor(waveform),
        loudness=meter,
        gains=gains,
    )
    return socket, draw_speech(meter, plan.starts, gains=gains)


def _encoder_parts(audio_encoder: Any) -> tuple[Wav2Vec2Parts, SegmentConfig]:
    if isinstance(audio_encoder, BuiltInSpeechEncoder):
        return split_wav2vec2(audio_encoder.model), audio_encoder.segment
    network: Any = getattr(audio_encoder, "model", None)
    base = isinstance(network, comfy.audio_encoders.wav2vec2.Wav2Vec2Model)
    if not base or network.encoder.do_stable_layer_norm:
        raise InputError(
            "Wrong audio encoder: Hallo3 needs wav2vec2-base-960h.",
            found=type(network).__name__ + (", large" if base else ""),
            expected="wav2vec2-base-960h",
            fix="load it with Load Audio Encoder, or use that of Load Hallo3 Built-in",
        )
    parts = Wav2Vec2Parts(
        extract=lambda signal: network.feature_extractor(signal).transpose(1, 2),
        convolutions=tuple(network.feature_extractor.conv_layers),
        project=network.feature_projection,
        positions=network.encoder.pos_conv_embed,
        norm=network.encoder.layer_norm,
        layers=tuple(network.encoder.layers),
    )
    return parts, HALLO3.segment
