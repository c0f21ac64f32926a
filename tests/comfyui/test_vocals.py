"""Encode Speech without the music: by a file among ComfyUI's models, or said why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.stages import Stages, difference
from support import onnx_builder as onnx_files


@pytest.fixture
def file(stages: Stages) -> Iterator[Path]:
    """Where the original has its file, in ComfyUI's models; nothing is there, before and after."""
    import folder_paths

    path = Path(folder_paths.models_dir) / "audio_separator" / "Kim_Vocal_2.onnx"
    assert stages.host.base in path.parents
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    path.unlink(missing_ok=True)
    path.parent.rmdir()


def heard(stages: Stages, vocals: str) -> tuple[Any, Tensor]:
    at = torch.arange(22050) / 44100
    tones = torch.stack((torch.sin(at * 2000), torch.sin(at * 7000))) * torch.sin(at * torch.pi * 2)
    audio = {"waveform": 0.4 * tones[None], "sample_rate": 44100}
    found = stages.run("Hallo3EncodeSpeech", audio=audio, audio_encoder=stages.audio_encoder, vocals=vocals)
    return found[0].speech.plan.frames, found[0].speech.segment(0)


def publish(stages: Stages, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Pin the file as if it were the published one."""
    module = stages.host.module("hallo3.speech.vocals")
    published = sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "EXPECTED", replace(module.EXPECTED, sha256=published))


def test_what_is_missing_is_named(stages: Stages, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = stages.host.module("hallo3.errors")
    heard(stages, "as recorded")
    with pytest.raises(errors.CheckpointError, match=r"(?s)without a licence.*audio_separator"):
        heard(stages, "separated")
    file.write_bytes(onnx_files.separator())
    with pytest.raises(errors.CheckpointError, match="not the published one"):
        heard(stages, "separated")
    publish(stages, monkeypatch, file)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(errors.DependencyError, match="pip install onnxruntime"):
        heard(stages, "separated")


def test_vocals_are_heard_in_place_of_the_recording(
    stages: Stages, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="not needed by ComfyUI")
    frames, recorded = heard(stages, "as recorded")
    for content, alike in ((onnx_files.separator(), True), (onnx_files.deaf_separator(), False)):
        file.write_bytes(content)
        publish(stages, monkeypatch, file)
        many, separated = heard(stages, "separated")
        assert many == frames
        assert (difference(separated, recorded) <= 1e-2) == alike
