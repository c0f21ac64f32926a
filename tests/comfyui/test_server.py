"""A real server: videos come out, progress is one bar, an interrupt is quick, bad inputs are explained."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfyui.prompts import simple
from comfyui.server import Server
from hallo3.media.audio import read_recording
from support.audio_samples import tone, write_wav


def made_file(server: Server, result: dict[str, Any], node: str = "save") -> Path:
    """The video a prompt saved."""
    assert result["status"]["status_str"] == "success", json.dumps(result["status"], indent=1)
    made = result["outputs"][node]["images"][0]
    return server.base / "output" / made["subfolder"] / made["filename"]


def test_a_video_with_sound_comes_out(server: Server) -> None:
    import av

    path = made_file(server, server.run(simple()))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.frames, float(video.average_rate)) == (163, 25.0)
        assert (video.width, video.height) == (64, 64)
    assert abs(read_recording(path).seconds - 6.5) < 0.1


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


class Watched:
    """What a client hears while a prompt runs; ``during`` may act once, at the first step."""

    def __init__(self) -> None:
        self.values: list[tuple[int, int]] = []
        self.texts: list[str] = []
        self.previews = 0
        self.ended_after = 0.0

    async def run(self, server: Server, prompt: dict[str, Any], during: Callable[[], Any] | None) -> None:
        """Queue a prompt and listen until it ends."""
        import aiohttp

        client, acted = f"watcher-{time.monotonic_ns()}", None
        address = f"{server.url}/ws?clientId={client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
            await socket.send_json({"type": "feature_flags", "data": {}})
            prompt_id = await asyncio.to_thread(server.queue, prompt, client)
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    self._binary(message.data)
                    continue
                said = json.loads(message.data)
                data = said.get("data", {})
                if said["type"] == "progress" and data["node"] == "extrapolate":
                    self.values.append((data["value"], data["max"]))
                    if during is not None and acted is None:
                        acted = time.monotonic()
                        await asyncio.to_thread(during)
                ended = said["type"] in ("execution_success", "execution_error", "execution_interrupted")
                if ended and data.get("prompt_id") == prompt_id:
                    self.ended_after = time.monotonic() - (acted or time.monotonic())
                    return

    def _binary(self, data: bytes) -> None:
        kind = int.from_bytes(data[:4], "big")
        if kind == 3:
            length = int.from_bytes(data[4:8], "big")
            self.texts.append(data[8 + length :].decode())
        elif kind in (1, 2, 4):
            self.previews += 1


def watch(server: Server, prompt: dict[str, Any], during: Callable[[], Any] | None = None) -> Watched:
    watched = Watched()
    asyncio.run(watched.run(server, prompt, during))
    return watched


def test_progress_is_one_bar_with_previews_and_time_left(server: Server) -> None:
    watched = watch(server, simple(extrapolate__seed=3))
    values, totals = zip(*watched.values, strict=True)
    assert list(values) == sorted(values)
    assert set(totals) == {6 * (4 + 4)}
    assert values[-1] == totals[-1]
    assert watched.previews >= 6 * 4
    assert watched.texts[-1].startswith("6 segments in 0:0")
    assert any(text.startswith("segment 2 of 6, 0:0") and text.endswith("left") for text in watched.texts)


def test_a_node_says_what_it_doubts(server: Server) -> None:
    """A picture without a drawn face, and a prompt that is too long: said under the node that ran."""
    plain = {**PICTURE, "inputs": {**PICTURE["inputs"], "width": 96, "height": 96}}
    prompt = simple(
        other=plain,
        identity__portrait=["other", 0],
        text={"class_type": "CLIPTextEncode", "inputs": {"clip": ["set", 4], "text": "word " * 20}},
        extrapolate__positive=["text", 0],
        extrapolate__steps=1,
    )
    watched = watch(server, prompt)
    assert any(text.startswith("No drawn face was found") for text in watched.texts)
    assert any("the last 5 are cut" in text for text in watched.texts)


def test_an_interrupt_is_obeyed_within_a_step_and_the_next_prompt_works(server: Server) -> None:
    watched = watch(
        server, simple(extrapolate__seed=4, extrapolate__steps=1000), lambda: server.post("/interrupt", {})
    )
    assert watched.values[-1][0] < 100
    assert watched.ended_after < 1.0
    made_file(server, server.run(simple(extrapolate__seed=5)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extrapolate__guidance_scale": "nan"}, "guidance scale"),
        ({"other": PICTURE, "identity__portrait": ["other", 0]}, "at least 64 px a side"),
        ({"other": {**PICTURE, "inputs": {**PICTURE["inputs"], "batch_size": 3}},
          "identity__portrait": ["other", 0]}, "The portrait is not one picture"),
        ({"other": LOADED, "speech__audio": ["other", 0]}, "too short to animate"),
        ({"mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}},
          "identity__face_mask": ["mask", 0]}, "The face mask does not fit the portrait"),
    ],
)  # fmt: skip
def test_bad_inputs_are_explained(server: Server, changes: dict[str, Any], said: str) -> None:
    write_wav(server.base / "input" / "sound.wav", tone(16000, 0.01), 16000)
    message = server.error(simple(**changes))
    assert said in message
    assert "Found:" in message
    assert "Fix:" in message


def test_any_sound_is_heard(server: Server) -> None:
    """Another rate and two channels, as Load Audio gives them."""
    write_wav(server.base / "input" / "stereo.wav", tone(44100, 0.5, 2), 44100)
    loaded = {"class_type": "LoadAudio", "inputs": {"audio": "stereo.wav"}}
    result = server.run(simple(loaded=loaded, speech__audio=["loaded", 0], extrapolate__steps=1))
    assert made_file(server, result).stat().st_size > 1000
