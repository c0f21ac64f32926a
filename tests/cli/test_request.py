"""The checked request: what is refused before weights are read, and which inputs make another job."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hallo3 import attention_backend as attention
from hallo3 import loading
from hallo3.attention_backend import BACKENDS
from hallo3.checkpoints.locate import ModelFolder
from hallo3.cli import request, session
from hallo3.config import NANO, FaceConfig
from hallo3.face.mediapipe import TASK_FILENAME
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.select import KernelChoice
from hallo3.settings import APPROXIMATIONS, UNTESTED
from support.audio_samples import RATE, tone, write_wav
from support.fake_mediapipe import install_mediapipe, make_task_file
from support.fault_injection import flip_bit
from support.messages import expect_message
from support.resume_runs import Command, frames_of

REFUSED = [
    ("--portrait absent.png", "no file absent.png"),
    ("--portrait .", "the folder ."),
    ("--portrait dot.png", "64 px"),
    ("--portrait s.wav", "cannot be read"),
    ("--speech absent.wav", "no file absent.wav"),
    ("--speech .", "the folder ."),
    ("--speech -", "standard input"),
    ("--speech http://127.0.0.1:9/s.wav", "http://127.0.0.1:9/s.wav, a web address"),
    ("--speech s.wav --track 2", "track 2; s.wav has 1"),
    ("--speech short.wav", "at least one video frame"),
    ("--speech p.png", "recording cannot be read"),
    ("--model absent", "transformer.safetensors"),
    ("--prompt talks --text-encoder absent", "absent: No such file"),
    ("--steps 0", "1 to 1000"),
    ("--guidance nan", "guidance scale"),
    (f"--seed {2**64}", "seed is out of range"),
    ("--sampler euler", "dpmpp_2m_sde or ddim"),
    ("--enlarge 17", "1 to 16"),
    ("-o video.avi", ".mp4"),
    ("-o absent/video.mp4", "no folder"),
    ("-o folder.mp4", "Expected: -o with a file name"),
    ("--speech film.mp4 -o film.mp4", "is an input"),
    ("--face-box 1,2,3", "box cannot be read"),
    ("--face-box 9,2,3,4", "box cannot be read"),
    ("--face-box 500,500,600,600", "box cannot be used"),
    ("--preview absent/x.png", "cannot be written"),
    ("--preview x.jpg", "cannot be written"),
    ("--chart x.txt", "cannot be written"),
    ("--chart p.png", "is an input"),
    ("--save-identity x.bin", "cannot be written"),
    ("--identity absent.safetensors", "not both"),
    ("--framing face", "no face to frame"),
    ("--paste-back --enlarge 2", "--enlarge 2 with --paste-back"),
    ("--plan --chart x.png", "--plan renders nothing"),
    ("--trial --save-identity i.safetensors --redo 1", "--trial and --save-identity, --redo"),
    ("--trial --continue-from v.mp4 --plan", "--trial and --continue-from"),
    ("--trial --identity i.safetensors", "identities and finished videos have the model's own canvas"),
    ("--trial --steps 0", "1 to 1000"),
    ("--device cuda", "Expected: cpu"),
    ("--attention cudnn --device cpu", "This attention cannot run here."),
    ("--attention sage --device cpu", "it runs on cuda only"),
    ("--attention fast", "Unknown attention."),
    ("--approximate steps-40", "steps-30 or steps-20 or guidance-middle or step-cache"),
    ("--approximate=", "Unknown approximation"),
    ("--approximate steps-30,steps-20", "steps-30 and steps-20"),
    ("--approximate steps-30 --steps 40", "--steps 40 and --approximate steps-30"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_bad_input(command: Command, words: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before weights are read."""
    monkeypatch.setattr(loading, "read_component", None)
    monkeypatch.chdir(command.video.parent)
    Image.new("RGB", (1, 1)).save("dot.png")
    write_wav(Path("short.wav"), tone(RATE, 0.039), RATE)
    shutil.copy("s.wav", "film.mp4")
    Path("folder.mp4").mkdir()
    Path("v.mp4").write_bytes(b"an old video")
    err = command.stderr(*words.split(), code=2)
    assert [text for text in (message, "Found:", "Fix:") if text not in err] == []
    assert "Traceback" not in err
    assert command.out == ""
    assert Path("v.mp4").read_bytes() == b"an old video"
    assert Path("film.mp4").read_bytes() == Path("s.wav").read_bytes()


@pytest.mark.parametrize("option", ["--portrait", "--speech", "-o"])
def test_a_required_option_is_named(command: Command, option: str) -> None:
    del command.inputs[option]
    assert f"no {option}" in command.stderr(code=2)


def test_a_folder_that_cannot_be_written(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", locked)
    assert f"{command.video.parent}: Permission denied" in command.stderr(code=2)


def change_a_pixel(command: Command) -> None:
    with Image.open(command.inputs["--portrait"]) as picture:
        pixels = np.array(picture)
    pixels[40, 30, 1] ^= 1
    Image.fromarray(pixels).save(command.inputs["--portrait"])


def change_a_weight(command: Command) -> None:
    folder = command.video.parent / "model"
    shutil.copytree(command.inputs["--model"], folder)
    flip_bit(folder / "vae.safetensors", -1)  # the lowest bit of an exponent
    command.inputs["--model"] = str(folder)


OTHER_JOBS = [
    *("--seed=1", "--steps=3", "--guidance=2", "--sampler=ddim", "--prompt=hi", "--posterior=sample"),
    *("--enlarge=2", "--quality=30", "--codec=h265", "--dtype=bf16", "--framing=original"),
    "--face-box=20,20,50,60",
]
SAME_JOB = ["--track=1", "--low-memory", "--no-mark", "--offload=disk", "--attention=math", "--kernels=fused"]


def key(command: Command, *flags: str) -> str:
    return command.request(*flags).job_key("")


def test_inputs_that_decide_frames_make_another_job(command: Command) -> None:
    keys = [key(command), *(key(command, flag) for flag in OTHER_JOBS)]
    flip_sample = lambda command: flip_bit(command.speech, -300)  # noqa: E731
    for change in (change_a_pixel, flip_sample, change_a_weight):
        change(command)  # and stays, for those after it
        keys.append(key(command))
    assert len(set(keys)) == len(keys)
    assert {key(command, flag) for flag in SAME_JOB} == {keys[-1]}


def test_a_usable_mediapipe_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file and version are, for a request with a folder of face files."""
    monkeypatch.setattr(request, "verify_component", lambda *_: ["hash"])
    (tmp_path / "scrfd_10g_bnkps.onnx").write_bytes(b"network")
    folders = SimpleNamespace(open=Path, faces=tmp_path, find=lambda _: tmp_path / "nowhere")
    chosen = {"has_prompt": False, "subject": SimpleNamespace(identity=None)}

    def weights(space: str = FaceConfig().space) -> dict[str, list[str]]:
        config = SimpleNamespace(face=SimpleNamespace(space=space))
        stub: Any = SimpleNamespace(config=config, verifier=None, files=folders, separator=None, **chosen)
        return request.AnimateRequest.weight_hashes(stub)

    install_mediapipe(monkeypatch, version="0.10.31")
    without = weights()
    assert "faces" in without
    (tmp_path / TASK_FILENAME).write_bytes(make_task_file())
    first = weights()
    assert {name: first[name] for name in without} == without
    assert first.keys() - without.keys() == {"landmarks"}
    assert "landmarks" not in weights("drawn-face")
    (tmp_path / TASK_FILENAME).write_bytes(make_task_file(face_detector=b"other numbers"))
    assert weights()["landmarks"][0] != first["landmarks"][0]
    install_mediapipe(monkeypatch, version="0.10.33")
    assert weights()["landmarks"][1] != first["landmarks"][1]
    install_mediapipe(monkeypatch, version="1.2.3")  # cannot be used
    assert "landmarks" not in weights()


@pytest.fixture
def short(command: Command, tmp_path: Path) -> Command:
    """Two segments, kept without loss."""
    command.speak(0.72)
    command.inputs |= {"-o": str(tmp_path / "v.mkv"), "--codec": "ffv1", "--pixels": "yuv444p"}
    return command


def test_attention_and_kernels_make_the_same_video(short: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "note: attention by torch (automatic); plain kernels" in short.stderr()
    expected = frames_of(short.video).astype(int)
    err = short.stderr(attention="math")  # the same job: nothing is left to render
    assert "all 2 segments were already rendered" in err
    assert "attention by" not in err
    for name, value, note in (("attention", "math", "attention by math"), ("kernels", "fused", "; fused")):
        assert note in short.stderr("--fresh", **{name: value})
        assert np.abs(frames_of(short.video).astype(int) - expected).max() <= 1
        assert short.request().throughput_key != short.request(f"--{name}", value).throughput_key
    monkeypatch.setattr(request, "choose_kernels", lambda *_: KernelChoice(PLAIN, "Triton is not installed"))
    assert "plain kernels (Triton is not installed)" in short.stderr("--fresh")
    monkeypatch.setattr(request, "choose_kernels", None)  # a plan and a finished job try no kernels
    assert short.request("--plan").kernels.kernels.name == "fused", "planned for a GPU with Triton"
    assert short() == 0


def test_only_an_approximate_attention_makes_another_job(short: Command) -> None:
    usual = short.request()
    keys = {name: replace(usual, attention=each).job_key("") for name, each in BACKENDS.items()}
    approximate = {name for name, each in BACKENDS.items() if not each.exact}
    assert {name for name, key in keys.items() if key != usual.job_key("")} == approximate
    assert len({keys[name] for name in approximate}) == len(approximate)


@pytest.mark.parametrize("name", ["math", "sage"])
def test_approximate_attention_is_noted(short: Command, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the run; all were tried with the built-in model."""
    monkeypatch.setattr(attention, "why_unsupported", lambda *_: "")
    message = f"note: attention {name} is approximate: 8-bit products; {UNTESTED}\n"
    for model, count in (short.inputs["--model"], name == "sage"), ("built-in", 0):
        plan = short.stdout("--plan", "--json", "--whole-picture", attention=name, model=model)
        assert json.loads(plan)["attention"] == BACKENDS[name].title
        assert short.err.count(message) == count


def test_a_plan_counts_approximate_evaluations(short: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments, two branches, 50 steps as the released model's."""
    fifty = replace(NANO, defaults=replace(NANO.defaults, steps=50))
    monkeypatch.setattr(session, "read_model_config", lambda _: fifty)
    for names, evaluations in {
        "": "200",
        "steps-30": "120",
        "steps-20": "80",
        "guidance-middle": "160",
        "step-cache": "at most 200",
        "steps-30,guidance-middle,step-cache": "at most 96",
    }.items():
        given = {"approximate": names or None}
        assert f"network   {evaluations} evaluations" in short.stdout("--plan", **given)
        assert (UNTESTED in short.err) == bool(names)
        plan = json.loads(short.stdout("--plan", "--json", **given))
        assert plan["network_evaluations"] == int(evaluations.split()[-1])
        assert ("reuses" in plan) == evaluations.startswith("at most")


def test_approximations_that_save_nothing_are_not_used(short: Command) -> None:
    """The built-in model takes one step without guidance."""
    names = ",".join(name for name in APPROXIMATIONS if name != "steps-20")
    err = short.stderr("--whole-picture", "--plan", model="built-in", approximate=names)
    assert len(re.findall(r"saves nothing here \(1 step, guidance 1\) and is not used", err)) == 3
    assert UNTESTED not in err
    assert "evaluations" in short.out


def test_each_approximation_makes_another_job(short: Command) -> None:
    keys = {key(short, "--steps", "12")}
    for names in ("guidance-middle", "step-cache", "guidance-middle,step-cache"):
        with expect_message(UNTESTED):
            keys.add(key(short, "--steps", "12", "--approximate", names))
    assert len(keys) == 4
    without = key(short, "--guidance", "1")
    with expect_message("saves nothing"):
        assert key(short, "--guidance", "1", "--approximate", "guidance-middle") == without


def test_a_run_reports_its_step_cache(short: Command) -> None:
    options = {"steps": 40, "sampler": "dpmpp_2m"}
    assert "step cache" not in short.stderr(**options)
    exact = frames_of(short.video)
    for rendered in (True, False):
        err = short.stderr(**options, approximate="step-cache")
        assert ("of 80 steps were not computed" in err) == rendered
        assert ("note: step cache:" in err) == rendered
        assert "note: step cache: 0 of" not in err
    assert not np.array_equal(frames_of(short.video), exact)


@pytest.mark.parametrize(("large", "precision"), [(False, "fp32"), (True, "bf16")])
def test_a_small_model_makes_the_same_video_on_a_gpu(
    command: Command, monkeypatch: pytest.MonkeyPatch, large: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ModelFolder, "is_large", property(lambda _: large))
    request = command.request()
    assert (request.device.type, request.precision.name) == ("cuda", precision)


def test_strengths_make_another_job_only_if_they_differ(short: Command) -> None:
    """Equal ones are a guidance scale, and so is that of the voice without a prompt."""
    plain = key(short, "--guidance", "2")
    assert plain == key(short, "--voice-strength", "0:2, 9:2")
    with expect_message("text strength has no effect: there is no prompt"):
        assert plain == key(short, "--text-strength", "9", "--voice-strength", "2")
    prompt = "--prompt", "hi"
    plain = key(short, *prompt, "--guidance", "2")
    assert plain == key(short, *prompt, "--text-strength", "2", "--voice-strength", "2")
    given = ("2", "3"), ("2", "0:3, 1:2"), ("0%:3, 100%:2", "2"), ("2", "0%:3, 1%:2")
    others = {key(short, *prompt, "--text-strength", t, "--voice-strength", v) for t, v in given}
    assert len(others - {plain}) == 4


def test_a_plan_tells_strengths_and_what_a_third_branch_costs(short: Command) -> None:
    given: dict[str, Any] = {"prompt": "hi", "guidance": "2", "steps": "4", "voice_strength": "0:3, 30:1.5"}
    out = short.stdout("--plan", **given)
    assert "4 steps of dpmpp_2m_sde, text strength 2; voice strength 0:3, 30:1.5\n" in out
    assert "network   24 evaluations, 1.5 times those of one guidance scale\n" in out
    plan = json.loads(short.stdout("--plan", "--json", **given))
    assert plan["network_evaluations"] == 24
    assert plan["strengths"] == "text strength 2; voice strength 0:3, 30:1.5"
    assert "strengths" not in json.loads(short.stdout("--plan", "--json", prompt="hi", guidance="2"))


def test_a_malformed_strength_is_named_before_anything_is_read(short: Command) -> None:
    err = short.stderr("--voice-strength", "0:1, 1:30:2", code=2)
    assert "The voice strength cannot be read." in err
    assert "1:30:2" in err
    assert "times are in seconds, so 1:30 is 90" in err
