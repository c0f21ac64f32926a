"""The built-in model as the command's default: named, explained, and honest about what it is for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3 import loading as load
from hallo3.built_in import FOLDER
from hallo3.cli.main import main
from support.audio_samples import RATE, tone, write_wav

ABOUT = "note: the built-in model knows drawn faces only, not photographs.\n"
RAN = "note: attention by torch, flash; plain kernels\n"


def words(folder: Path, portrait: Path) -> list[str]:
    speech = write_wav(folder / "s.wav", tone(RATE, 0.2), RATE)
    return ["animate", "--portrait", str(portrait), "--speech", str(speech)]


@pytest.mark.parametrize("model", [[], ["--model", "built-in"], ["--model", str(FOLDER)]])
def test_it_is_the_model_where_none_is_given_or_its_name_is(
    tmp_path: Path,
    samples: Path,
    model: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "read_component", None)
    assert main([*words(tmp_path, samples / "portrait.png"), *model, "--plan", "--json"]) == 0
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert (plan["model"], plan["width"], plan["height"]) == ("built-in", 64, 64)
    assert err == ""


def test_a_folder_of_that_name_is_reached_by_its_path(
    tmp_path: Path, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "built-in")
    assert main([*words(tmp_path, samples / "portrait.png"), "--model", folder, "--plan"]) == 2
    assert "transformer.safetensors" in capsys.readouterr().err


def test_a_drawn_portrait_needs_one_note(
    tmp_path: Path, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "v.mp4"
    options = ["--steps", "1", "--enlarge", "4", "--prompt", "A person talks.", "-o", str(video)]
    assert main([*words(tmp_path, samples / "portrait.png"), *options]) == 0
    out, err = capsys.readouterr()
    assert "5 frames, 0.20 s, 256 x 256" in out
    assert [line for line in err.splitlines(keepends=True) if "note" in line] == [ABOUT, RAN]
    with av.open(str(video)) as container:
        assert [(f.width, f.height) for f in container.decode(video=0)] == [(256, 256)] * 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hallo3_jobs", "s.wav", "v.mp4"]


def test_what_the_user_should_know_is_a_note_not_a_python_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)).save(photograph)
    options = ["--steps", "1", "--prompt", "one word " * 20, "-o", str(tmp_path / "v.mp4")]
    assert main([*words(tmp_path, photograph), *options]) == 0
    err = capsys.readouterr().err
    assert ABOUT in err
    assert err.count("note: The portrait looks like a photograph") == 1
    assert err.count("note: The prompt has 41 tokens; the model reads 16") == 1
    assert err.count("note: ") == 4
    assert all(line.startswith("note: ") for line in re.split(r"[\r\n]", err) if "note: " in line)
    assert "Warning" not in err
    assert ".py" not in err


def test_other_models_need_no_note(
    tmp_path: Path, samples: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(nano_folder), "--steps", "1", "-o", str(tmp_path / "v.mp4")]
    assert main([*words(tmp_path, samples / "portrait.png"), *options]) == 0
    assert [line for line in capsys.readouterr().err.splitlines(keepends=True) if "note" in line] == [RAN]
