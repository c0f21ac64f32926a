"""Exit codes, errors without tracebacks, messages, and terminals that lack letters."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hallo3.cli import renderer
from hallo3.cli.main import open_streams
from support.resume_runs import Command


def test_unexpected_errors_are_one_message(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.stop(0).endswith("Stopped.\n")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("bit rot\nin detail")

    monkeypatch.setattr(renderer, "load_models", fail)
    err = command.stderr(code=1)
    assert "RuntimeError: bit rot" in err
    assert "in detail" not in err
    assert "Traceback" not in err
    assert "Traceback" in command.stderr("--traceback", code=1)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize("words", [[], ["jobs", "."]])
def test_a_command_gives_freed_memory_back(words: list[str]) -> None:
    """Without one, glibc keeps blocks of 20 MB between small ones that stay: the test would see it."""
    script = f"""
from hallo3.cli.main import main
if {words}:
    main({words})
rss = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
before, warm = rss(), bytearray(b"x") * (20 << 20)
del warm
blocks = [(bytearray(b"x") * (20 << 20), bytearray(b"x") * 100_000) for _ in range(20)]
small = [block[1] for block in blocks]
del blocks
print(rss() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (int(done.stdout.splitlines()[-1]) < 100e6) == bool(words)


def test_messages_are_notes_not_python_warnings(command: Command, tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "p.png")
    refused = command.stderr(model="built-in", steps=1, code=2)
    assert "encoding speech" not in refused
    assert "Drawn faces only: this is a photograph." in refused
    assert "--whole-picture" in refused
    err = command.stderr("--whole-picture", model="built-in", steps=1, prompt="one word " * 20)
    for note in (
        "the built-in model knows drawn faces only, not photographs.\n",
        "Drawn faces only: this is a photograph.",
        "The prompt has 41 tokens; the model reads 16",
        "attention by torch (automatic); plain kernels",
    ):
        assert err.count(f"note: {note}") == 1
    assert err.count("note: ") == 4
    assert all(line.startswith("note: ") for line in re.split(r"[\r\n]", err) if "note: " in line)
    assert "Warning" not in err
    assert ".py" not in err


def test_a_drawing_needs_one_note(command: Command, samples: Path) -> None:
    command.speak(0.2)
    drawn = {"model": None, "portrait": samples / "portrait.png", "steps": 1, "prompt": "A person talks."}
    notes = re.findall("note: .*", command.stderr(**drawn))
    assert [note[6:25] for note in notes] == ["the built-in model ", "attention by torch "]


def test_names_that_a_terminal_cannot_show_fail_nothing(command: Command) -> None:
    raw = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(raw, encoding="cp1252")) as out:
        assert command(o=command.video.with_name("\u65e5\u672c.mp4")) == 0
        out.flush()
    assert b"u65e5" in raw.getvalue()


def test_lines_are_printed_at_once_where_python_is_unbuffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``PYTHONUNBUFFERED``, which containers set; bars on stderr would overwrite later lines."""
    there, here = os.pipe()
    unbuffered = [io.TextIOWrapper(io.FileIO(os.dup(here), "w"), write_through=True) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), unbuffered, strict=True):
        monkeypatch.setattr(sys, name, stream)
    open_streams()
    os.set_blocking(there, False)
    for name in ("stdout", "stderr"):
        getattr(sys, name).write(f"{name}\n")
        assert os.read(there, 100) == f"{name}\n".encode()
    for stream in unbuffered:
        stream.close()
    os.close(there)
    os.close(here)
