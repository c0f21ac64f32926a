"""Recordings in memory that are heard in pieces: what is heard lies in a temporary folder."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

import torch
from torch import Tensor

from ..segments import SegmentPlan
from .anatomy import Anatomy
from .speech import ReadFeatures
from .spool import write_spool
from .streamed import Watch, encode_streamed, unwatched
from .windowed import Windows

AT_ONCE = 1 << 20
"""Samples that are written at once."""


def encode_aside(
    anatomy: Anatomy,
    waveform: Tensor,
    plan: SegmentPlan,
    device: torch.device,
    watch: Watch = unwatched,
    *,
    windows: Windows | None = None,
    inside: Path | None = None,
) -> ReadFeatures:
    """``encode_streamed`` for a mono waveform [samples] in memory, in a temporary folder that goes with the
    last who can ask; ``inside`` this one, or the system's own."""
    folder = Path(mkdtemp(prefix="hallo3_speech_", dir=inside))
    try:
        pieces = (waveform[start : start + AT_ONCE, None] for start in range(0, len(waveform), AT_ONCE))
        signal = write_spool(folder / "signal.f32", pieces, 1)
        read = encode_streamed(anatomy, signal, plan, device, folder, watch, windows=windows)
        signal.remove()
    except BaseException:
        rmtree(folder, ignore_errors=True)
        raise
    finalize(read, rmtree, folder, ignore_errors=True)
    return read
