"""``--attention``: what is refused, what is told, and whose job it is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hallo3 import attention as backends
from hallo3 import loading as load
from hallo3.attention import BACKENDS
from hallo3.built_in import FOLDER
from hallo3.cli.main import main, parse
from hallo3.cli.request import AnimateRequest, read_request
from support.audio_samples import tone, write_wav
from support.resume_runs import inputs_in, run


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    """Two NANO segments, kept without loss."""
    made = inputs_in(tmp_path, nano_folder) | {"-o": str(tmp_path / "v.mkv"), "--codec": "ffv1"}
    write_wav(tmp_path / "s.wav", tone(16000, 0.72), 16000)
    return made


def request_of(inputs: dict[str, str], *flags: str) -> AnimateRequest:
    return read_request(parse(["animate", *(w for pair in inputs.items() for w in pair), *flags])[1])


def frames_in(path: str) -> np.ndarray:
    import av

    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_another_kernel_makes_the_same_video(
    inputs: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    assert "note: attention by torch (automatic); plain kernels" in capfd.readouterr().err
    wanted = frames_in(inputs["-o"]).astype(int)
    assert run(inputs, attention="math") == 0  # the same job: nothing is left to do, and nothing ran
    err = capfd.readouterr().err
    assert "all 2 segments were already rendered" in err
    assert "attention by" not in err
    assert run(inputs, "--fresh", attention="math") == 0
    assert "note: attention by math" in capfd.readouterr().err
    found = frames_in(inputs["-o"]).astype(int)
    assert found.shape == wanted.shape == (18, 32, 32, 3)
    assert np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cudnn", "This attention cannot run here."),
        ("sage", "it runs on cuda only"),
        ("fast", "Unknown attention."),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_loaded(
    inputs: dict[str, str],
    name: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_weights(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(load, "read_component", no_weights)
    assert run(inputs, attention=name, device="cpu") == 2
    err = capsys.readouterr().err
    assert said in err
    assert re.search("auto(,| or) flash", err)


def test_only_an_approximate_attention_makes_another_job(inputs: dict[str, str]) -> None:
    request = request_of(inputs)
    usual = request.job_key("")
    keys = {name: replace(request, attention=each).job_key("") for name, each in BACKENDS.items()}
    exact = {name for name, each in BACKENDS.items() if each.exact}
    assert {name for name, key in keys.items() if key == usual} == exact
    assert len({keys[name] for name in BACKENDS.keys() - exact}) == len(BACKENDS) - len(exact)


def test_runs_by_another_attention_take_another_time(inputs: dict[str, str]) -> None:
    assert request_of(inputs).throughput_key != request_of(inputs, "--attention", "math").throughput_key
    assert request_of(inputs).throughput_key == request_of(inputs, "--attention", "auto").throughput_key


def test_plan_and_doctor_tell_of_it(
    inputs: dict[str, str], nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, "--plan") == 0
    assert "attention auto\n" in capsys.readouterr().out
    assert run(inputs, "--plan", "--json", attention="math") == 0
    assert '"attention": "math"' in capsys.readouterr().out
    assert main(["doctor", str(nano_folder)]) == 0
    assert "attention: auto, flash, math\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("built_in", [False, True])
def test_an_approximate_one_is_called_so_before_the_run(
    inputs: dict[str, str],
    name: str,
    built_in: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the built-in model they have been tried."""
    monkeypatch.setattr(backends, "why_unsupported", lambda *_: "")
    if built_in:
        inputs["--model"] = str(FOLDER)
    assert run(inputs, "--plan", "--whole-picture", attention=name) == 0
    said = f"note: attention {name} is approximate: 8-bit products; untested on real weights\n"
    assert capsys.readouterr().err.count(said) == (not BACKENDS[name].exact and not built_in)
