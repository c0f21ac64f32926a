"""How Encode Speech listens: its choices, its plot, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.stages import Stages
from hallo3.noise import make_generator


def uneven() -> dict[str, Any]:
    """A loud passage, a room, and a passage a tenth as loud."""
    drawn = make_generator("uneven").standard_normal(60000, dtype="float32")
    waveform = 0.1 * torch.from_numpy(drawn)[None, None]
    waveform[..., 20000:40000] *= 1e-3
    waveform[..., 40000:] *= 0.1
    return {"waveform": waveform, "sample_rate": 16000}


def heard(stages: Stages, audio: Any, **choices: str) -> tuple[Tensor, Tensor]:
    """All features, and the plot."""
    with torch.inference_mode():
        found = stages.run("Hallo3EncodeSpeech", audio=audio, audio_encoder=stages.audio_encoder, **choices)
    socket, segments, frames, fps, plot = found
    assert (segments, frames, fps) == (len(socket.speech.plan), 94, 25.0)
    return socket.speech.read(range(socket.speech.plan.padded)), plot


def test_left_out_or_at_their_defaults_is_the_same(stages: Stages) -> None:
    wanted, plot = heard(stages, uneven())
    same, again = heard(stages, uneven(), level="as recorded", silence="as recorded", hearing="auto")
    assert torch.equal(same, wanted)
    assert torch.equal(again, plot)
    assert plot.shape == (1, 344, 960, 3)
    assert 0 <= float(plot.min()) <= float(plot.max()) <= 1


@pytest.mark.parametrize("choices", [{"level": "evened"}, {"silence": "muted"}])
def test_other_choices_are_heard_and_drawn(stages: Stages, choices: dict[str, str]) -> None:
    audio = uneven()
    before, (wanted, plain) = audio["waveform"].clone(), heard(stages, audio)
    found, plot = heard(stages, audio, **choices)
    assert torch.equal(audio["waveform"], before)
    assert found.shape == wanted.shape
    assert not torch.equal(found, wanted)
    assert plot.shape == plain.shape
    assert not torch.equal(plot, plain)


def test_the_plot_is_shown_on_the_node(stages: Stages) -> None:
    node = stages.host.node("Hallo3EncodeSpeech")
    with torch.inference_mode():
        out = node.execute(audio=uneven(), audio_encoder=stages.audio_encoder)
    assert len(out.ui.as_dict()["images"]) == 1


def test_other_words_are_refused(stages: Stages) -> None:
    refused = stages.host.module("hallo3.errors").InputError
    for name in ("level", "silence", "hearing"):
        with pytest.raises(refused, match="listened to like that"):
            heard(stages, uneven(), **{name: "loud"})


def test_windows_are_told_and_near(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exact, _ = heard(stages, uneven())
    windows = stages.host.module("hallo3.speech.features").Windows(40, 10)
    monkeypatch.setattr(stages.host.module("hallo3.speech.preprocess"), "windows_for", lambda *_: windows)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(stages.host.module("nodes.comfy.speech"), "LONG", 1)
    found, _ = heard(stages, uneven(), hearing="windows")
    assert any("approximation" in record.message for record in caplog.records)
    assert 0 < float(((found - exact).square().mean() / exact.var()).sqrt()) < 0.3
