"""Prompts in ComfyUI's API form, and a client of a server: a prompt's progress, saved files, jobs."""

import asyncio
import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import av

from comfyui.server import Server


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


IDENTITY = {"portrait": ["sample", 0], "vae": ["set", 2], "reference_network": ["set", 1]}
SOCKETS = {"model": ["set", 0], "vae": ["set", 2], "identity": ["identity", 0], "speech": ["speech", 0]}
WIDGETS = {"seed": 0, "steps": 4, "guidance_scale": 1.0, "motion_drop": 0.1}
FORMAT = {"filename_prefix": "hallo3", "format": "auto", "format.codec": "auto", "codec": "auto"}
SIMPLE: dict[str, Any] = {
    "sample": node("Hallo3Sample"),
    "set": node("Hallo3LoadBuiltIn"),
    "speech": node("Hallo3EncodeSpeech", audio=["sample", 1], audio_encoder=["set", 3]),
    "identity": node("Hallo3IdentityReference", **IDENTITY),
    "extrapolate": node("Hallo3Extrapolate", **SOCKETS, **WIDGETS),
    "save": node("SaveVideo", video=["extrapolate", 0], **FORMAT),
}


def simple(**changes: Any) -> dict[str, Any]:
    """The simple prompt with other inputs: ``extrapolate__steps=50``, or a whole node: ``text=node(...)``."""
    prompt = deepcopy(SIMPLE)
    for key, value in changes.items():
        name, _, field = key.partition("__")
        (prompt[name]["inputs"] if field else prompt)[field or name] = value
    return prompt


def saved_file(server: Server, result: dict[str, Any], node: str = "save") -> Path:
    assert result["status"]["status_str"] == "success", json.dumps(result["status"], indent=1)
    entry = result["outputs"][node]["images"][0]
    return server.base / "output" / entry["subfolder"] / entry["filename"]


class Client:
    """What a client receives while a prompt runs; ``during`` is called once, at the first step."""

    def __init__(self) -> None:
        self.values, self.texts, self.previews = list[tuple[int, int]](), list[str](), list[bytes]()

    async def run(
        self, server: Server, prompt: dict[str, Any], during: Callable[[], Any] | None, previews: str
    ) -> None:
        """Queue a prompt and listen until it ends."""
        import aiohttp

        client, acted = f"watcher-{time.monotonic_ns()}", False
        address = f"{server.url}/ws?clientId={client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
            await socket.send_json({"type": "feature_flags", "data": {}})
            prompt_id = await asyncio.to_thread(server.queue, prompt, client, previews)
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    self._binary(message.data)
                    continue
                event = json.loads(message.data)
                data = event.get("data", {})
                if event["type"] == "progress" and data["node"] == "extrapolate":
                    self.values.append((data["value"], data["max"]))
                    if during is not None and not acted:
                        acted = True
                        await asyncio.to_thread(during)
                ended = event["type"] in ("execution_success", "execution_error", "execution_interrupted")
                if ended and data.get("prompt_id") == prompt_id:
                    return

    def _binary(self, data: bytes) -> None:
        kind = int.from_bytes(data[:4], "big")
        if kind == 3:
            self.texts.append(data[8 + int.from_bytes(data[4:8], "big") :].decode())
        elif kind == 1:
            self.previews.append(data[8:])


def listen(
    server: Server,
    prompt: dict[str, Any],
    during: Callable[[], Any] | None = None,
    previews: str = "default",
) -> Client:
    client = Client()
    asyncio.run(client.run(server, prompt, during, previews))
    return client


def packets(path: Path) -> dict[str, list[bytes]]:
    """What is encoded: the packets of ``video`` and of ``audio``."""
    with av.open(str(path)) as container:
        found = [(packet.stream.type, bytes(packet)) for packet in container.demux() if packet.size]
    return {kind: [data for each, data in found if each == kind] for kind in ("video", "audio")}


def saved_segments(server: Server) -> dict[str, list[str]]:
    jobs = (server.base / "output" / "hallo3_jobs").glob("*/segments")
    return {job.parent.name: sorted(path.stem for path in job.glob("*.safetensors")) for job in jobs}


def slow(**changes: Any) -> dict[str, Any]:
    return simple(extrapolate__steps=60, **changes)


def stop_after(server: Server, prompt: Any, segments: int, stop: Callable[[], Any] | None = None) -> str:
    """Queue a prompt and interrupt it once its new job has saved ``segments``; the job's name."""
    before = saved_segments(server)
    server.queue(prompt)
    begun = time.monotonic()
    while time.monotonic() - begun < 100:
        for name, files in saved_segments(server).items():
            if name not in before and len(files) >= segments:
                (stop or server.interrupt)()
                return name
        time.sleep(0.02)
    raise TimeoutError


def render_uninterrupted(server: Server, prompt: dict[str, Any]) -> dict[str, list[bytes]]:
    """The packets of the same video from a new job."""
    prompt["extrapolate"]["inputs"]["start_again"] = 77
    return packets(saved_file(server, server.run(prompt)))
