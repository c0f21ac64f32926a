"""In a server: what is finished is kept through interrupts, kills and other workflows, and says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from comfyui.prompts import simple
from comfyui.server import Server
from comfyui.test_server import Watched, made_file, watch

PREVIEW = {"class_type": "PreviewImage", "inputs": {"images": ["extrapolate", 1]}}


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = next(each for each in container.streams if each.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def kept(server: Server) -> dict[str, list[str]]:
    """Finished segments of every job."""
    jobs = (server.base / "output" / "hallo3_jobs").glob("*/segments")
    return {job.parent.name: sorted(path.stem for path in job.glob("*.safetensors")) for job in jobs}


def slow(**changes: Any) -> dict[str, Any]:
    """Six segments of a second each."""
    return simple(extrapolate__steps=60, **changes)


def stop_after(server: Server, prompt: dict[str, Any], segments: int, stop: Callable[[], Any]) -> str:
    """Queue a prompt, and stop it when so many segments of a job of its own are kept; the job's name."""
    before = kept(server)
    server.queue(prompt)
    begun = time.monotonic()
    while time.monotonic() - begun < 100:
        for name, files in kept(server).items():
            if name not in before and len(files) >= segments:
                stop()
                return name
        time.sleep(0.02)
    raise TimeoutError


def undisturbed(server: Server, prompt: dict[str, Any]) -> dict[str, list[bytes]]:
    """The same video in a job of its own."""
    prompt["extrapolate"]["inputs"]["start_again"] = 77
    path = made_file(server, server.run(prompt))
    return {kind: packets(path, kind) for kind in ("video", "audio")}


def test_an_interrupted_video_goes_on_and_says_so(server: Server) -> None:
    prompt = slow(extrapolate__seed=11)
    job = stop_after(server, prompt, 2, lambda: server.post("/interrupt", {}))
    time.sleep(1)
    done = kept(server)[job]
    assert 2 <= len(done) < 6
    with av.open(str(server.base / "output" / "hallo3_jobs" / job / "so_far.mp4")) as container:
        assert len(list(container.decode(video=0))) >= 31
    other = server.run(simple(extrapolate__seed=12))
    assert other["status"]["status_str"] == "success"
    watched = watch(server, prompt)
    assert f"{len(done)} of 6 segments are finished already" in watched.texts
    assert {total for _, total in watched.values} == {(6 - len(done)) * (60 + 4)}
    path = made_file(server, server.run(prompt))
    found = {kind: packets(path, kind) for kind in ("video", "audio")}
    assert found == undisturbed(server, prompt)
    assert not (server.base / "output" / "hallo3_jobs" / job / "so_far.mp4").exists()


def test_other_values_are_another_job_and_the_old_one_goes_on(server: Server) -> None:
    prompt = slow(extrapolate__seed=13)
    job = stop_after(server, prompt, 1, lambda: server.post("/interrupt", {}))
    changed = [
        slow(extrapolate__seed=14),
        slow(extrapolate__seed=13, extrapolate__motion_drop=0.2),
        slow(extrapolate__seed=13, extrapolate__quality=30),
        slow(
            extrapolate__seed=13,
            text={"class_type": "CLIPTextEncode", "inputs": {"clip": ["set", 4], "text": "blue light"}},
            extrapolate__positive=["text", 0],
        ),
    ]
    found = [stop_after(server, each, 1, lambda: server.post("/interrupt", {})) for each in changed]
    assert len({job, *found}) == 5
    time.sleep(1)
    done = len(kept(server)[job])
    watched = watch(server, prompt)
    assert f"{done} of 6 segments are finished already" in watched.texts


def test_segments_are_done_again_in_place(server: Server) -> None:
    prompt = simple(extrapolate__seed=15)
    before = packets(made_file(server, server.run(prompt)), "video")
    prompt["extrapolate"]["inputs"]["redo"] = "2"
    watched = watch(server, prompt)
    assert {total for _, total in watched.values} == {4 + 4}
    after = packets(made_file(server, server.run(prompt)), "video")
    assert [a == b for a, b in zip(after, before, strict=True)].count(False) <= 31
    assert after[:31] == before[:31]
    assert after[62:] == before[62:]
    assert after[31:62] != before[31:62]
    prompt["extrapolate"]["inputs"]["redo"] = "9"
    assert "one segment, or a stretch" in server.error(prompt)


def test_images_are_made_when_they_are_connected_and_equal_after_a_stop(server: Server) -> None:
    prompt = simple(extrapolate__seed=16)
    made_file(server, server.run(prompt))
    prompt["show"] = PREVIEW
    connected = server.run(prompt)
    assert connected["status"]["status_str"] == "success"
    assert len(connected["outputs"]["show"]["images"]) == 163
    with_images = slow(extrapolate__seed=17, show=PREVIEW)
    stop_after(server, with_images, 2, lambda: server.post("/interrupt", {}))
    went_on = server.run(with_images)["outputs"]["show"]["images"]
    with_images["extrapolate"]["inputs"]["start_again"] = 1
    anew = server.run(with_images)["outputs"]["show"]["images"]
    for index in (0, 40, 100, 162):
        first, second = (server.base / "temp" / each[index]["filename"] for each in (went_on, anew))
        with Image.open(first) as one, Image.open(second) as other:
            assert one.tobytes() == other.tobytes()


def test_a_video_goes_on_with_more_speech(server: Server) -> None:
    prompt = simple(
        extrapolate__seed=18,
        more={
            "class_type": "Hallo3Extrapolate",
            "inputs": {**simple()["extrapolate"]["inputs"], "continue_from": ["extrapolate", 2]},
        },
        save__video=["more", 0],
        chart={"class_type": "PreviewImage", "inputs": {"images": ["more", 3]}},
    )
    path = made_file(server, server.run(prompt))
    both = packets(path, "video")
    assert len(both) == 2 * 163
    with av.open(str(path)) as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert abs(seconds - 13.04) < 0.1
    prompt["more"]["inputs"]["continue_from"] = "nothing of this name"
    assert "There is no video to go on from" in server.error(prompt)


def test_a_plan_is_told_before_anything_is_loaded(server: Server) -> None:
    plan = {
        "class_type": "Hallo3Plan",
        "inputs": {"audio": ["sample", 1], "model": "built-in", "steps": 4, "guidance_scale": 1.0},
    }
    said = server.run({"sample": simple()["sample"], "plan": plan})["outputs"]["plan"]["text"][0]
    assert "163 frames, 6.52 s, 64 x 64" in said
    assert "segments  6" in said
    made_file(server, server.run(simple(plan=plan, speech__audio=["plan", 0], extrapolate__seed=19)))
    plan["inputs"]["images"] = True
    again = server.run({"sample": simple()["sample"], "plan": plan})["outputs"]["plan"]["text"][0]
    assert "as on earlier runs" in again
    jobs = len(kept(server))
    plan["inputs"]["steps"] = 5  # a plan decides no pixel
    made_file(server, server.run(simple(plan=plan, speech__audio=["plan", 0], extrapolate__seed=19)))
    assert len(kept(server)) == jobs


@pytest.fixture
def running() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


def test_a_killed_server_loses_nothing(tmp_path: Path, running: list[Server]) -> None:
    running.append(Server(tmp_path))
    prompt = slow(extrapolate__seed=20)
    job = stop_after(running[0], prompt, 3, running[0].kill)
    done = kept(running[0])[job]
    running.append(Server(tmp_path))
    watched = Watched()
    asyncio.run(watched.run(running[1], prompt, None))
    assert f"{len(done)} of 6 segments are finished already" in watched.texts
    path = made_file(running[1], running[1].run(prompt))
    found = {kind: packets(path, kind) for kind in ("video", "audio")}
    assert found == undisturbed(running[1], prompt)
