"""A model folder opens each file once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hallo3.checkpoints.locate import ModelFolder
from hallo3.errors import CheckpointError


def test_a_component_is_opened_once_until_its_file_is_replaced(tmp_path: Path, nano_folder: Path) -> None:
    shutil.copytree(nano_folder, tmp_path / "model")
    files = ModelFolder(tmp_path / "model")
    source = files.open("vae")
    assert files.open("vae") is source
    shutil.copyfile(nano_folder / "vae.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(files.find("vae"))
    assert files.open("vae") is not source
    files.find("vae").unlink()
    with pytest.raises(CheckpointError, match="cannot be opened"):
        files.open("vae")
