"""What a user sees while a model is loaded: stages with the bytes that they read."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.checkpoints.locate import ModelFolder
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.model.transformer import PREPARED
from hallo3.offload.estimate import DEVICE, OffloadConfig
from hallo3.pipeline import animate
from hallo3.progress import ProgressCallback
from hallo3.settings import settings_for

RESIDENT = SimpleNamespace(offload=OffloadConfig(home=DEVICE, resident=0, passes="batched"))
STAGES = {
    "reading wav2vec2": "speech_encoder",
    "reading the tokenizer": "",
    "reading T5's encoder": "text_encoder",
    "reading CogVideoX's 3D VAE": "vae",
    "reading Hallo3's reference network": "reference",
    "reading Hallo3's transformer": "transformer",
    "preparing": "",
}
"""What is shown of a run before its first step, with the component whose bytes are read."""


@pytest.mark.parametrize(
    ("where", "on_access"),
    [
        ({"offload": "none"}, False),
        ({"offload": "blocks"}, False),
        ({"offload": "disk"}, False),
        ({"offload": "disk"}, True),
        ({"memory": RESIDENT}, False),
    ],
)
def test_every_stage_before_the_first_step_reaches_its_total(
    nano_folder: Path, portrait: Tensor, speech: Recording, where: dict[str, Any], on_access: bool
) -> None:
    shown: dict[str, tuple[int, list[int]]] = {}

    @contextmanager
    def show(what: str, total: int) -> Generator[ProgressCallback]:
        assert what not in shown, "one stage, one display"
        shown[what] = total, []
        yield shown[what][1].append

    models = load_models(nano_folder, torch.device("cpu"), "fp32", open_progress=show, **where)
    settings = replace(settings_for(models.config.defaults, steps=1), on_access=on_access)
    next(animate(portrait, speech, "hi", models, replace(settings, steps_on_access=on_access)))
    streamed = where.get("offload") == "disk"
    expected = [name for name, part in STAGES.items() if not (streamed and part == "transformer")]
    if where.get("offload") != "none":  # T5 streams while its tokenizer is read
        expected[1:3] = reversed(expected[1:3])
    assert list(shown) == expected
    files, prepared = ModelFolder(nano_folder), 0
    for name in ["face"] if on_access else PREPARED:
        ends = tuple(f"{layer}.weight" for layer in PREPARED[name])
        entries = files.open("transformer").entries
        prepared += sum(entry.nbytes for key, entry in entries.items() if key.endswith(ends))
    for what, (total, amounts) in shown.items():
        part = STAGES[what]
        size = sum(entry.nbytes for entry in files.open(part).entries.values()) if part else 0
        assert total == (prepared if what == "preparing" else size), what
        assert sum(amounts) == total, what
