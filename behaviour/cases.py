"""Test cases: portraits and sentences that no model was trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hallo3.config import SegmentConfig
from hallo3.media.audio import Recording, read_recording, to_mono
from hallo3.media.image import read_picture
from hallo3.segments import frame_count

from .mouth import Mouth, compute_mouth

TRUTH = "truth.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A portrait [3, h, w] in 0..1, its speech, and the mouth that the rule asks for.

    ``truth`` [F] are the openings of the same person drawn to the same speech, by
    :func:`behaviour.pixels.measure_opening`; empty if there is no drawing.
    """

    name: str
    portrait: Tensor
    speech: Recording
    mouth: Mouth
    truth: Tensor


def make_case(
    name: str, portrait: Tensor, speech: Recording, config: SegmentConfig, truth: Tensor | None = None
) -> Case:
    """A case from a picture and a recording of any sample rate and channels."""
    mono = to_mono(speech, config.sample_rate)
    frames = frame_count(len(mono), config.sample_rate, config.fps)
    return Case(
        name=name,
        portrait=portrait,
        speech=Recording(mono[None], config.sample_rate),
        mouth=compute_mouth(mono, frames, config.sample_rate, config.fps),
        truth=torch.zeros(0) if truth is None else truth,
    )


def read_cases(folder: Path, config: SegmentConfig) -> list[Case]:
    """The cases of a folder with ``NAME.png``, ``NAME.flac`` and ``truth.json``, by name."""
    truth = json.loads((folder / TRUTH).read_text(encoding="utf-8"))
    return [
        make_case(
            path.stem,
            read_picture(path),
            read_recording(path.with_suffix(".flac")),
            config,
            torch.tensor(truth[path.stem]),
        )
        for path in sorted(folder.glob("*.png"))
    ]
