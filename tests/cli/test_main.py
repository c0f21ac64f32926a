"""Exit codes, errors without tracebacks, messages, and terminals that lack letters."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.audio_samples import tone, write_wav
from support.resume_runs import run


def test_unexpected_errors_are_one_message(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> None:
        def load_models(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("hallo3.cli.renderer.load_models", load_models)

    fail(RuntimeError("bit rot\nin detail"))
    assert run(inputs) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: bit rot" in err
    assert "in detail" not in err
    assert "Traceback" not in err
    assert run(inputs, "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err
    fail(KeyboardInterrupt())
    assert run(inputs) == 1
    assert capsys.readouterr().err.endswith("Stopped.\n")


def test_messages_are_notes_not_python_warnings(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "p.png")
    assert run(inputs, "--whole-picture", model="built-in", steps="1", prompt="one word " * 20) == 0
    err = capsys.readouterr().err
    assert err.count("note: ") == 4
    assert err.count("note: the built-in model knows drawn faces only, not photographs.\n") == 1
    assert err.count("note: The portrait looks like a photograph") == 1
    assert err.count("note: The prompt has 41 tokens; the model reads 16") == 1
    assert err.count("note: attention by torch (automatic); plain kernels") == 1
    assert all(line.startswith("note: ") for line in re.split(r"[\r\n]", err) if "note: " in line)
    assert "Warning" not in err
    assert ".py" not in err


def test_a_drawing_needs_one_note(
    inputs: dict[str, str], samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(Path(inputs["--speech"]), tone(16000, 0.2), 16000)
    del inputs["--model"]
    assert run(inputs, portrait=str(samples / "portrait.png"), steps="1", prompt="A person talks.") == 0
    notes = re.findall("note: .*", capsys.readouterr().err)
    assert [note[6:25] for note in notes] == ["the built-in model ", "attention by torch "]


def test_names_that_a_terminal_cannot_show_fail_nothing(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert run(inputs | {"-o": str(tmp_path / "\u65e5\u672c.mp4")}) == 0
    sys.stdout.flush()
    assert b"u65e5" in raw.getvalue()
