"""Encode Speech: its options, its plot, windows, and vocals by a file among ComfyUI's models."""

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
from hallo3.noise import make_generator
from support import onnx_builder


def uneven() -> Tensor:
    """A loud passage, room noise, and a passage a tenth as loud."""
    drawn = make_generator("uneven").standard_normal(60000, dtype="float32")
    waveform = 0.1 * torch.from_numpy(drawn)[None, None]
    waveform[..., 20000:40000] *= 1e-3
    waveform[..., 40000:] *= 0.1
    return waveform


def encode(stages: Stages, waveform: Tensor, rate: int = 16000, **options: str) -> tuple[Tensor, Tensor]:
    """All features, and the plot."""
    socket, segments, frames, fps, plot = stages.encode_speech(waveform, rate, **options)
    assert (segments, frames, fps) == (len(socket.speech.plan), socket.speech.plan.frames, 25.0)
    return socket.speech.read(range(socket.speech.plan.padded)), plot


def test_defaults_are_as_recorded_and_the_plot_is_shown_on_the_node(stages: Stages) -> None:
    features, plot = encode(stages, uneven())
    same, again = encode(stages, uneven(), level="as recorded", silence="as recorded", hearing="auto")
    assert torch.equal(same, features)
    assert torch.equal(again, plot)
    assert (plot.shape[0], *plot.shape[2:]) == (1, 960, 3)
    assert 0 <= float(plot.min()) <= float(plot.max()) <= 1
    audio = {"waveform": uneven(), "sample_rate": 16000}
    outputs = stages.host.node("Hallo3EncodeSpeech").execute(audio=audio, audio_encoder=stages.audio_encoder)
    assert len(outputs.ui.as_dict()["images"]) == 1


@pytest.mark.parametrize("option", [{"level": "evened"}, {"silence": "muted"}])
def test_options_change_features_and_plot(stages: Stages, option: dict[str, str]) -> None:
    waveform = uneven()
    for plain, changed in zip(encode(stages, waveform), encode(stages, waveform, **option), strict=True):
        assert changed.shape == plain.shape
        assert not torch.equal(changed, plain)
    assert torch.equal(waveform, uneven())


def test_windows_are_a_warning_and_close(stages: Stages, monkeypatch: Any, caplog: Any) -> None:
    exact, _ = encode(stages, uneven())
    windows, module = stages.module("hallo3.speech.features").Windows(40, 10), "hallo3.speech.preprocess"
    monkeypatch.setattr(stages.module(module), "choose_windows", lambda *_: windows)
    features, _ = encode(stages, uneven(), hearing="windows")
    assert any("approximation" in record.message for record in caplog.records)
    assert 0 < float(((features - exact).square().mean() / exact.var()).sqrt()) < 0.3


@pytest.fixture
def file(stages: Stages) -> Iterator[Path]:
    """Where the original has its separator, in ComfyUI's models; missing before and after."""
    import folder_paths

    path = Path(folder_paths.models_dir) / "audio_separator" / "Kim_Vocal_2.onnx"
    assert stages.host.base in path.parents
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    path.unlink(missing_ok=True)
    path.parent.rmdir()


def publish(stages: Stages, monkeypatch: pytest.MonkeyPatch, file: Path, content: bytes) -> None:
    """Write the file, and pin it as if it were the published one."""
    module = stages.module("hallo3.speech.vocals")
    file.write_bytes(content)
    monkeypatch.setattr(module, "EXPECTED", replace(module.EXPECTED, sha256=sha256(content).hexdigest()))


def encode_tones(stages: Stages, vocals: str) -> Tensor:
    at = torch.arange(22050) / 44100
    tones = torch.stack((torch.sin(at * 2000), torch.sin(at * 7000))) * torch.sin(at * torch.pi * 2)
    return encode(stages, 0.4 * tones[None], 44100, vocals=vocals)[0]


def test_a_missing_or_wrong_separator_is_an_error(stages: Stages, file: Path, monkeypatch: Any) -> None:
    with pytest.raises(
        stages.errors.CheckpointError, match=r"(?s)missing.*without a licence.*audio_separator"
    ):
        encode_tones(stages, "separated")
    file.write_bytes(onnx_builder.separator())
    with pytest.raises(stages.errors.CheckpointError, match="not the published one"):
        encode_tones(stages, "separated")
    publish(stages, monkeypatch, file, onnx_builder.separator())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(stages.errors.DependencyError, match="pip install onnxruntime"):
        encode_tones(stages, "separated")


def test_vocals_replace_the_recording(stages: Stages, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="not needed by ComfyUI")
    recorded = encode_tones(stages, "as recorded")
    for content, alike in ((onnx_builder.separator(), True), (onnx_builder.deaf_separator(), False)):
        publish(stages, monkeypatch, file, content)
        separated = encode_tones(stages, "separated")
        assert separated.shape == recorded.shape
        assert (difference(separated, recorded) <= 1e-2) == alike
