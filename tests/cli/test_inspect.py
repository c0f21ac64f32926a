import json
from pathlib import Path

import pytest

from hallo3.checkpoints.locate import ModelFolder
from hallo3.cli.main import main


def test_inspect_describes_files(nano_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ModelFolder(nano_folder)
    assert main(["inspect", str(files.find("transformer")), str(files.find("vae"))]) == 0
    out = capsys.readouterr().out
    assert "transformer: Hallo3's transformer, diffusers' names" in out
    assert "belongs in models/vae" in out
    assert out.count("complete") == 2
    assert main(["inspect", "--json", str(files.find("reference"))]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["parts"][0]["part"] == "reference"
    assert report["numbers"] == {"F32": report["parts"][0]["parameters"] * 4}


def test_inspect_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "model.safetensors"
    page.write_text("<!doctype html>")
    assert main(["inspect", str(page)]) == 2
    assert "web page" in capsys.readouterr().err
