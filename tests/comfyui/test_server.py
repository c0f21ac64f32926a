"""A real server: videos, progress, interrupts, messages and errors as a client sees them."""

from __future__ import annotations

from typing import Any

import pytest

from comfyui.client import run_as_client, saved_file
from comfyui.prompts import simple
from comfyui.server import Server
from support.audio_samples import tone, write_wav


def test_equal_inputs_are_served_from_the_cache(server: Server) -> None:
    server.run(simple(extrapolate__seed=1))
    again = dict(server.run(simple(extrapolate__seed=1))["status"]["messages"])
    assert set(again["execution_cached"]["nodes"]) == {
        "sample",
        "set",
        "speech",
        "identity",
        "extrapolate",
        "save",
    }
    other = dict(server.run(simple(extrapolate__seed=2))["status"]["messages"])
    assert set(other["execution_cached"]["nodes"]) == {"sample", "set", "speech", "identity"}


LOADED = {"class_type": "LoadAudio", "inputs": {"audio": "sound.wav"}}
PICTURE = {"class_type": "EmptyImage", "inputs": {"width": 40, "height": 40, "batch_size": 1, "color": 0}}


def test_progress_is_one_bar_with_previews_and_time_left(server: Server) -> None:
    client = run_as_client(server, simple(extrapolate__seed=3))
    values, totals = zip(*client.values, strict=True)
    assert list(values) == sorted(values)
    assert set(totals) == {6 * (4 + 4)}
    assert values[-1] == totals[-1]
    assert client.previews >= 6 * 4
    assert client.texts[-1].startswith("Done: 6 segments in 0:0")
    assert any(text.startswith("segment 2 of 6, 0:0") and text.endswith("left") for text in client.texts)


def test_warnings_are_shown_under_the_node(server: Server) -> None:
    """For a picture without a drawn face, and for a prompt that is too long."""
    plain = {**PICTURE, "inputs": {**PICTURE["inputs"], "width": 96, "height": 96}}
    prompt = simple(
        other=plain,
        identity__portrait=["other", 0],
        text={"class_type": "CLIPTextEncode", "inputs": {"clip": ["set", 4], "text": "word " * 20}},
        extrapolate__positive=["text", 0],
        extrapolate__steps=1,
    )
    client = run_as_client(server, prompt)
    assert any(text.startswith("No drawn face was found") for text in client.texts)
    assert any("the last 5 are cut" in text for text in client.texts)


def test_an_interrupt_stops_within_steps_and_the_next_prompt_works(server: Server) -> None:
    client = run_as_client(
        server, simple(extrapolate__seed=4, extrapolate__steps=1000), lambda: server.post("/interrupt", {})
    )
    assert client.values[-1][0] < 100
    saved_file(server, server.run(simple(extrapolate__seed=5)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"extrapolate__guidance_scale": "nan"}, "guidance scale"),
        ({"other": PICTURE, "identity__portrait": ["other", 0]}, "at least 64 px"),
        ({"other": {**PICTURE, "inputs": {**PICTURE["inputs"], "batch_size": 3}},
          "identity__portrait": ["other", 0]}, "The portrait must be a single picture"),
        ({"other": LOADED, "speech__audio": ["other", 0]}, "too short to animate"),
        ({"mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}},
          "identity__face_mask": ["mask", 0]}, "The face mask does not fit the portrait"),
    ],
)  # fmt: skip
def test_errors_have_found_and_fix(server: Server, changes: dict[str, Any], text: str) -> None:
    write_wav(server.base / "input" / "sound.wav", tone(16000, 0.01), 16000)
    message = server.error(simple(**changes))
    assert text in message
    assert "Found:" in message
    assert "Fix:" in message
