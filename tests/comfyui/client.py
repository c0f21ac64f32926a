"""A client of a ComfyUI server: prompts with their progress, saved files and jobs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from comfyui.prompts import simple
from comfyui.server import Server


def saved_file(server: Server, result: dict[str, Any], node: str = "save") -> Path:
    assert result["status"]["status_str"] == "success", json.dumps(result["status"], indent=1)
    entry = result["outputs"][node]["images"][0]
    return server.base / "output" / entry["subfolder"] / entry["filename"]


class Client:
    """What a client receives while a prompt runs; ``during`` is called once, at the first step."""

    def __init__(self) -> None:
        self.values: list[tuple[int, int]] = []
        self.texts: list[str] = []
        self.previews = 0

    async def run(self, server: Server, prompt: dict[str, Any], during: Callable[[], Any] | None) -> None:
        """Queue a prompt and listen until it ends."""
        import aiohttp

        client, acted = f"watcher-{time.monotonic_ns()}", False
        address = f"{server.url}/ws?clientId={client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
            await socket.send_json({"type": "feature_flags", "data": {}})
            prompt_id = await asyncio.to_thread(server.queue, prompt, client)
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
            length = int.from_bytes(data[4:8], "big")
            self.texts.append(data[8 + length :].decode())
        elif kind in (1, 2, 4):
            self.previews += 1


def run_as_client(server: Server, prompt: dict[str, Any], during: Callable[[], Any] | None = None) -> Client:
    client = Client()
    asyncio.run(client.run(server, prompt, during))
    return client


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = next(each for each in container.streams if each.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def saved_segments(server: Server) -> dict[str, list[str]]:
    jobs = (server.base / "output" / "hallo3_jobs").glob("*/segments")
    return {job.parent.name: sorted(path.stem for path in job.glob("*.safetensors")) for job in jobs}


def slow(**changes: Any) -> dict[str, Any]:
    return simple(extrapolate__steps=60, **changes)


def stop_after(server: Server, prompt: dict[str, Any], segments: int, stop: Callable[[], Any]) -> str:
    """Queue a prompt and stop it once its new job has saved ``segments``; the job's name."""
    before = saved_segments(server)
    server.queue(prompt)
    begun = time.monotonic()
    while time.monotonic() - begun < 100:
        for name, files in saved_segments(server).items():
            if name not in before and len(files) >= segments:
                stop()
                return name
        time.sleep(0.02)
    raise TimeoutError


def render_uninterrupted(server: Server, prompt: dict[str, Any]) -> dict[str, list[bytes]]:
    """The packets of the same video from a new job."""
    prompt["extrapolate"]["inputs"]["start_again"] = 77
    path = saved_file(server, server.run(prompt))
    return {kind: packets(path, kind) for kind in ("video", "audio")}
