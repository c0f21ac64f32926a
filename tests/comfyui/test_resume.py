"""Jobs of Extrapolate on a server: resume after interrupts and kills, redo, continue, and the plan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from PIL import Image

from comfyui.client import (
    Client,
    packets,
    render_uninterrupted,
    run_as_client,
    saved_file,
    saved_segments,
    slow,
    stop_after,
)
from comfyui.prompts import simple
from comfyui.server import Server

PREVIEW = {"class_type": "PreviewImage", "inputs": {"images": ["extrapolate", 1]}}


def test_an_interrupted_video_resumes_with_a_message(server: Server) -> None:
    prompt = slow(extrapolate__seed=11)
    job = stop_after(server, prompt, 2, lambda: server.post("/interrupt", {}))
    time.sleep(1)
    done = saved_segments(server)[job]
    assert 2 <= len(done) < 6
    with av.open(str(server.base / "output" / "hallo3_jobs" / job / "so_far.mp4")) as container:
        assert len(list(container.decode(video=0))) >= 31
    other = server.run(simple(extrapolate__seed=12))
    assert other["status"]["status_str"] == "success"
    client = run_as_client(server, prompt)
    assert f"{len(done)} of 6 segments were already rendered; reusing them." in client.texts
    assert {total for _, total in client.values} == {(6 - len(done)) * (60 + 4)}
    path = saved_file(server, server.run(prompt))
    found = {kind: packets(path, kind) for kind in ("video", "audio")}
    assert found == render_uninterrupted(server, prompt)
    assert not (server.base / "output" / "hallo3_jobs" / job / "so_far.mp4").exists()


def test_other_values_start_another_job_and_the_old_one_resumes(server: Server) -> None:
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
    done = len(saved_segments(server)[job])
    client = run_as_client(server, prompt)
    assert f"{done} of 6 segments were already rendered; reusing them." in client.texts


def test_redo_renders_only_the_named_segments(server: Server) -> None:
    prompt = simple(extrapolate__seed=15)
    before = packets(saved_file(server, server.run(prompt)), "video")
    prompt["extrapolate"]["inputs"]["redo"] = "2"
    client = run_as_client(server, prompt)
    assert {total for _, total in client.values} == {4 + 4}
    after = packets(saved_file(server, server.run(prompt)), "video")
    assert [a == b for a, b in zip(after, before, strict=True)].count(False) <= 31
    assert after[:31] == before[:31]
    assert after[62:] == before[62:]
    assert after[31:62] != before[31:62]
    prompt["extrapolate"]["inputs"]["redo"] = "9"
    assert "`redo` names segments" in server.error(prompt)


def test_images_can_be_connected_later_and_are_equal_after_a_stop(server: Server) -> None:
    prompt = simple(extrapolate__seed=16)
    saved_file(server, server.run(prompt))
    prompt["show"] = PREVIEW
    connected = server.run(prompt)
    assert connected["status"]["status_str"] == "success"
    assert len(connected["outputs"]["show"]["images"]) == 163
    with_images = slow(extrapolate__seed=17, show=PREVIEW)
    stop_after(server, with_images, 2, lambda: server.post("/interrupt", {}))
    resumed = server.run(with_images)["outputs"]["show"]["images"]
    with_images["extrapolate"]["inputs"]["start_again"] = 1
    fresh = server.run(with_images)["outputs"]["show"]["images"]
    for index in (0, 40, 100, 162):
        first, second = (server.base / "temp" / each[index]["filename"] for each in (resumed, fresh))
        with Image.open(first) as one, Image.open(second) as other:
            assert one.tobytes() == other.tobytes()


def test_a_video_is_continued_with_more_speech(server: Server) -> None:
    prompt = simple(
        extrapolate__seed=18,
        more={
            "class_type": "Hallo3Extrapolate",
            "inputs": {**simple()["extrapolate"]["inputs"], "continue_from": ["extrapolate", 2]},
        },
        save__video=["more", 0],
        chart={"class_type": "PreviewImage", "inputs": {"images": ["more", 3]}},
    )
    path = saved_file(server, server.run(prompt))
    both = packets(path, "video")
    assert len(both) == 2 * 163
    with av.open(str(path)) as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert abs(seconds - 13.04) < 0.1
    prompt["more"]["inputs"]["continue_from"] = "nothing of this name"
    assert "There is no video to continue" in server.error(prompt)


def test_the_plan_is_measured_and_decides_no_pixel(server: Server) -> None:
    plan = {
        "class_type": "Hallo3Plan",
        "inputs": {"audio": ["sample", 1], "model": "built-in", "steps": 4, "guidance_scale": 1.0},
    }
    text = server.run({"sample": simple()["sample"], "plan": plan})["outputs"]["plan"]["text"][0]
    assert "163 frames, 6.52 s, 64 x 64" in text
    assert "segments  6" in text
    saved_file(server, server.run(simple(plan=plan, speech__audio=["plan", 0], extrapolate__seed=19)))
    plan["inputs"]["images"] = True
    again = server.run({"sample": simple()["sample"], "plan": plan})["outputs"]["plan"]["text"][0]
    assert "from earlier runs" in again
    jobs = len(saved_segments(server))
    plan["inputs"]["steps"] = 5  # a plan decides no pixel
    saved_file(server, server.run(simple(plan=plan, speech__audio=["plan", 0], extrapolate__seed=19)))
    assert len(saved_segments(server)) == jobs


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
    done = saved_segments(running[0])[job]
    running.append(Server(tmp_path))
    client = Client()
    asyncio.run(client.run(running[1], prompt, None))
    assert f"{len(done)} of 6 segments were already rendered; reusing them." in client.texts
    path = saved_file(running[1], running[1].run(prompt))
    found = {kind: packets(path, kind) for kind in ("video", "audio")}
    assert found == render_uninterrupted(running[1], prompt)
