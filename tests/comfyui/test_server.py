"""A real server: progress, messages, errors, the plan; jobs that are resumed, redone and continued."""

import json
import os
import shutil
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from comfyui import client
from comfyui.client import SIMPLE, node, saved_file, saved_segments, simple
from comfyui.server import Server
from contract.frozen import frames_of as read_frames
from support.audio_samples import tone, write_wav


def test_equal_inputs_are_served_from_the_cache(server: Server) -> None:
    server.run(simple(extrapolate__seed=1))
    before = {"sample", "set", "speech", "identity"}
    for seed, cached in ((1, before | {"extrapolate", "save"}), (2, before)):
        messages = dict(server.run(simple(extrapolate__seed=seed))["status"]["messages"])
        assert set(messages["execution_cached"]["nodes"]) == cached


def picture(side: int, count: int = 1) -> dict[str, Any]:
    return node("EmptyImage", width=side, height=side, batch_size=count, color=0)


def other(source: dict[str, Any], into: str) -> dict[str, Any]:
    """The changes with which another node's first output goes into an input."""
    return {"other": source, into: ["other", 0]}


def test_progress_is_one_bar_with_previews_and_time_left(server: Server) -> None:
    heard = client.listen(server, simple(extrapolate__seed=3))
    values = [value for value, _ in heard.values]
    assert values == sorted(values)
    assert {total for _, total in heard.values} == {6 * (4 + 4)} == {values[-1]}
    assert len(heard.previews) >= 6 * 4
    assert heard.texts[-1].startswith("Done: 6 segments in 0:")
    for stage in ("encoding", "sampling", "decoding, 9/", "saving"):
        start = f"segment 2 of 6, {stage}"
        assert any(text.startswith(start) and text.endswith("left") for text in heard.texts), heard.texts


def test_a_segments_last_frame_is_shown_without_a_preview_method(server: Server) -> None:
    prompt = simple(extrapolate__seed=40)
    heard = client.listen(server, prompt, previews="none")
    frames = read_frames(saved_file(server, server.run(prompt))).astype(float)
    assert len(heard.previews) == 6
    for number, preview in enumerate(heard.previews, start=1):
        shown = np.asarray(Image.open(BytesIO(preview)).resize((64, 64)), float)
        apart = np.abs(frames - shown).mean(axis=(1, 2, 3))
        assert apart[min(number * 31, len(frames)) - 1] < 1.05 * apart.min() < 5


def test_warnings_are_shown_under_the_node(server: Server) -> None:
    """For a picture without a drawn face, and for a prompt that is too long."""
    text = node("CLIPTextEncode", clip=["set", 4], text="word " * 20)
    changes = {"text": text, "extrapolate__positive": ["text", 0], "extrapolate__steps": 1}
    changes["identity__no_face"] = "whole picture"
    heard = client.listen(server, simple(**other(picture(96), "identity__portrait"), **changes))
    assert any(text.startswith("Drawn faces only: none is in this picture") for text in heard.texts)
    assert any("the last 5 are cut" in text for text in heard.texts)


def test_an_interrupt_stops_within_steps_and_the_next_prompt_works(server: Server) -> None:
    prompt = simple(extrapolate__seed=4, extrapolate__steps=1000)
    heard = client.listen(server, prompt, server.interrupt)
    assert heard.values[-1][0] < 100
    saved_file(server, server.run(simple(extrapolate__seed=5)))


NOISE = node("LoadImage", image="photograph.png")
MASK = node("SolidMask", value=1.0, width=64, height=64)


def test_errors_have_found_and_fix(server: Server) -> None:
    write_wav(server.base / "input" / "sound.wav", tone(16000, 0.01), 16000)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(server.base / "input" / "photograph.png")
    for text, changes in {
        "guidance scale": {"extrapolate__guidance_scale": "nan"},
        "at least 64 px": other(picture(40), "identity__portrait"),
        "Drawn faces only: none is in this picture": other(picture(200), "identity__portrait"),
        "Drawn faces only: this is a photograph": other(NOISE, "identity__portrait"),
        "`redo` cannot be read": {"extrapolate__redo": "12.5"},
        "`redo` names segments that this video does not have": {"extrapolate__redo": "0:50-0:55"},
        "The portrait must be a single picture": other(picture(40, 3), "identity__portrait"),
        "too short to animate": other(node("LoadAudio", audio="sound.wav"), "speech__audio"),
        "The face mask does not fit the portrait": other(MASK, "identity__face_mask"),
    }.items():
        message = server.error(simple(**changes))
        assert [part for part in (text, "Found:", "Fix:") if part not in message] == []
    assert "Save Video cannot save ProRes" in server.error(simple(extrapolate__codec="prores"))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    """In place, with its size and time kept."""
    seen = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(1000))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "segments")


LOSSES = (Path.unlink, Path.unlink, truncate, overwrite, link, Path.unlink)


def test_a_video_that_was_taken_away_is_there_again_each_time(server: Server) -> None:
    prompt, before = simple(extrapolate__seed=21), saved_segments(server)
    first = client.packets(saved_file(server, server.run(prompt)))
    [job] = saved_segments(server).keys() - before.keys()
    video = server.base / "output" / "hallo3_jobs" / job / "video.mp4"
    for lose in LOSSES:
        lose(video)
        assert client.packets(saved_file(server, server.run(prompt))) == first
        assert client.packets(video) == first
        messages = dict(server.run(prompt)["status"]["messages"])
        assert messages["execution_cached"]["nodes"].count("extrapolate") == 1


def test_a_job_from_a_stranger_reaches_nothing(server: Server) -> None:
    """Linked segments stay as they are; a path as key is no name."""
    prompt, before = simple(extrapolate__seed=22), saved_segments(server)
    first = client.packets(saved_file(server, server.run(prompt)))
    [name] = saved_segments(server).keys() - before.keys()
    job, precious = server.base / "output" / "hallo3_jobs" / name, server.base / "precious"
    (job / "segments").rename(precious)
    (job / "segments").symlink_to(precious)
    kept = {path: path.stat() for path in precious.iterdir()}
    prompt["extrapolate"]["inputs"]["mark"] = False
    assert client.packets(saved_file(server, server.run(prompt))) == first
    assert {path: path.stat() for path in precious.iterdir()} == kept
    assert (job.with_name(f"{name}-2") / "video.mp4").is_file()
    hostile = job.with_name("0123456789abcdef")
    shutil.copytree(job.with_name(f"{name}-2"), hostile)
    fields = json.loads((hostile / "job.json").read_text())
    for key in ("../../precious", str(precious), "0123456789abcdef" + "/../" * 12):
        (hostile / "job.json").write_text(json.dumps({**fields, "key": key, "root": key}))
        for parent in (hostile.name, key, str(hostile)):
            prompt["extrapolate"]["inputs"]["continue_from"] = parent
            assert "There is no video to continue" in server.error(prompt)
    assert {path: path.stat() for path in precious.iterdir()} == kept


def test_a_saved_identity_that_was_deleted_is_saved_again_and_the_doctor_looks_again(server: Server) -> None:
    save = node("Hallo3SaveIdentity", identity=["identity", 0], model=["set", 0], filename_prefix="kept/me")
    prompt = simple(kept=save)
    for name in ("speech", "extrapolate", "save"):
        del prompt[name]
    for _ in range(3):
        server.run(prompt)
        [path] = (server.base / "output" / "hallo3_identities" / "kept").iterdir()
        server.run(prompt)
        path.unlink()
    doctor = {"doctor": node("Hallo3Doctor")}
    for _ in range(2):
        assert dict(server.run(doctor)["status"]["messages"])["execution_cached"]["nodes"] == []


PREVIEW = node("PreviewImage", images=["extrapolate", 1])


def resume(server: Server, prompt: dict[str, Any], job: str) -> None:
    """Run the prompt of a job that was stopped."""
    done = len(saved_segments(server)[job])
    heard = client.listen(server, prompt)
    assert f"{done} of 6 segments were already rendered; reusing them." in heard.texts
    assert {total for _, total in heard.values} == {(6 - done) * (60 + 4)}


def test_an_interrupted_video_resumes_with_a_message(server: Server) -> None:
    prompt = client.slow(extrapolate__seed=11)
    job = client.stop_after(server, prompt, 2)
    time.sleep(1)
    assert 2 <= len(saved_segments(server)[job]) < 6
    with av.open(str(server.base / "output" / "hallo3_jobs" / job / "so_far.mp4")) as container:
        assert len(list(container.decode(video=0))) >= 31
    saved_file(server, server.run(simple(extrapolate__seed=12)))
    resume(server, prompt, job)
    found = client.packets(saved_file(server, server.run(prompt)))
    assert found == client.render_uninterrupted(server, prompt)
    assert not (server.base / "output" / "hallo3_jobs" / job / "so_far.mp4").exists()


def test_other_values_start_another_job_and_the_old_one_resumes(server: Server) -> None:
    prompt = client.slow(extrapolate__seed=13)
    job = client.stop_after(server, prompt, 1)
    text = node("CLIPTextEncode", clip=["set", 4], text="blue light")
    changes: list[dict[str, Any]] = [{"extrapolate__motion_drop": 0.2}, {"extrapolate__quality": 30}]
    changes += [{"extrapolate__seed": 14}, {"text": text, "extrapolate__positive": ["text", 0]}]
    slow = (client.slow(**{"extrapolate__seed": 13} | each) for each in changes)
    assert len({job, *(client.stop_after(server, each, 1) for each in slow)}) == 5
    time.sleep(1)
    heard = client.listen(server, client.slow(extrapolate__seed=16), server.interrupt)
    seeds = [text.split()[1] for text in heard.texts if text.startswith("Seed ")]
    assert sorted(seeds) == ["13", "14"], "those that differ in the seed alone"
    resume(server, prompt, job)


def test_redo_renders_only_the_named_segments(server: Server) -> None:
    prompt = simple(extrapolate__seed=15)
    before = client.packets(saved_file(server, server.run(prompt)))["video"]
    prompt["extrapolate"]["inputs"]["redo"] = "2"
    heard = client.listen(server, prompt)
    assert {total for _, total in heard.values} == {4 + 4}
    after = client.packets(saved_file(server, server.run(prompt)))["video"]
    assert (after[:31], after[62:]) == (before[:31], before[62:])
    assert after[31:62] != before[31:62]
    prompt["extrapolate"]["inputs"]["redo"] = "9"
    assert "`redo` names segments" in server.error(prompt)


def test_images_can_be_connected_later_and_are_equal_after_a_stop(server: Server) -> None:
    prompt = simple(extrapolate__seed=16)
    saved_file(server, server.run(prompt))
    prompt["show"] = PREVIEW
    assert len(server.run(prompt)["outputs"]["show"]["images"]) == 163
    with_images = client.slow(extrapolate__seed=17, show=PREVIEW)
    client.stop_after(server, with_images, 2)
    resumed = server.run(with_images)["outputs"]["show"]["images"]
    with_images["extrapolate"]["inputs"]["start_again"] = 1
    fresh = server.run(with_images)["outputs"]["show"]["images"]
    for index in (0, 40, 100, 162):
        files = [server.base / "temp" / each[index]["filename"] for each in (resumed, fresh)]
        assert len({Image.open(file).tobytes() for file in files}) == 1


def test_a_video_is_continued_with_more_speech(server: Server) -> None:
    more = node("Hallo3Extrapolate", **SIMPLE["extrapolate"]["inputs"], continue_from=["extrapolate", 2])
    chart = node("PreviewImage", images=["more", 3])
    prompt = simple(extrapolate__seed=18, more=more, save__video=["more", 0], chart=chart)
    path = saved_file(server, server.run(prompt))
    assert len(client.packets(path)["video"]) == 2 * 163
    with av.open(str(path)) as container:
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert abs(seconds - 13.04) < 0.1
    prompt["more"]["inputs"]["continue_from"] = "nothing of this name"
    assert "There is no video to continue" in server.error(prompt)


def test_the_plan_is_measured_and_decides_no_pixel(server: Server) -> None:
    plan = node("Hallo3Plan", audio=["sample", 1], model="built-in", steps=4, guidance_scale=1.0)
    alone = {"sample": SIMPLE["sample"], "plan": plan}
    text = server.run(alone)["outputs"]["plan"]["text"][0]
    assert [part for part in ("163 frames, 6.52 s, 64 x 64", "segments  6") if part not in text] == []
    saved_file(server, server.run(simple(plan=plan, speech__audio=["plan", 0], extrapolate__seed=19)))
    plan["inputs"]["images"] = True
    assert "from earlier runs" in server.run(alone)["outputs"]["plan"]["text"][0]
    jobs = len(saved_segments(server))
    plan["inputs"]["steps"] = 5  # a plan decides no pixel
    saved_file(server, server.run(simple(plan=plan, speech__audio=["plan", 0], extrapolate__seed=19)))
    assert len(saved_segments(server)) == jobs


def test_a_killed_server_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def start() -> Server:
        server = Server(tmp_path)
        request.addfinalizer(server.stop)
        return server

    first, prompt = start(), client.slow(extrapolate__seed=20)
    job = client.stop_after(first, prompt, 3, first.kill)
    second = start()
    resume(second, prompt, job)
    found = client.packets(saved_file(second, second.run(prompt)))
    assert found == client.render_uninterrupted(second, prompt)
