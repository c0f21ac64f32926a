"""Identity files of somebody else's making: whatever is in them, they are refused when they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3 import identity_file
from hallo3.errors import CheckpointError
from hallo3.geometry import PixelBox
from hallo3.identity import Identity
from hallo3.identity_file import read_identity, same_model, write_identity
from hallo3.media.canvas import Canvas
from hallo3.media.paste_back import PasteBack

SHOWN = torch.zeros(3, 64, 64, dtype=torch.uint8)


@pytest.fixture
def identity() -> Identity:
    """One that is sound, and small."""
    return Identity(
        canvas=Canvas(pixels=torch.zeros(1, 3, 1, 8, 8), rows=slice(0, 8), columns=slice(0, 8)),
        space="thumbnail",
        face_embedding=torch.ones(1, 48),
        reference_features=(torch.zeros(1, 4, 8),) * 2,
        surroundings=PasteBack(photograph=SHOWN, place=PixelBox(0, 0, 64, 64)),
        overview=SHOWN,
    )


def test_a_sound_one_is_read(identity: Identity, tmp_path: Path) -> None:
    write_identity(identity, torch.ones(8), tmp_path / "a.safetensors")
    assert read_identity(tmp_path / "a.safetensors").space == "thumbnail"


@pytest.mark.parametrize(
    "wrong",
    [
        {"surroundings": PasteBack(photograph=SHOWN, place=PixelBox(-100, -100, -50, -50))},
        {"surroundings": PasteBack(photograph=SHOWN, place=PixelBox(40, 40, 10, 10))},
        {"surroundings": PasteBack(photograph=SHOWN, place=PixelBox(5, 5, 5, 5))},
        {"surroundings": PasteBack(photograph=SHOWN, place=PixelBox(0, 0, float("nan"), 9))},
        {"surroundings": PasteBack(photograph=SHOWN, place=PixelBox(0, 0, 1e300, 9))},
        {"surroundings": PasteBack(photograph=SHOWN[0], place=PixelBox(0, 0, 9, 9))},
        {"surroundings": PasteBack(photograph=SHOWN[:, :63], place=PixelBox(0, 0, 9, 9))},
        {"surroundings": PasteBack(photograph=SHOWN.float(), place=PixelBox(0, 0, 9, 9))},
        {"overview": SHOWN[0]},
        {"overview": SHOWN[:, :0]},
        {"overview": SHOWN.float()},
        {"reference_features": ()},
        {"reference_features": (torch.zeros(1, 4, 8), torch.zeros(1, 5, 8))},
        {"reference_features": (torch.full((1, 4, 8), float("nan")),)},
        {"face_embedding": torch.zeros(48)},
        {"face_embedding": torch.full((1, 48), 1e30)},
        {"face_embedding": torch.zeros(1, 48, dtype=torch.long)},
        {"canvas": Canvas(pixels=torch.full((1, 3, 1, 8, 8), 1e3), rows=slice(0, 8), columns=slice(0, 8))},
        {"canvas": Canvas(pixels=torch.zeros(1, 3, 1, 8, 8), rows=slice(0, 9), columns=slice(0, 8))},
    ],
)
def test_what_no_identity_is_made_of_is_refused_though_its_hash_is_right(
    wrong: dict[str, Any], identity: Identity, tmp_path: Path
) -> None:
    write_identity(replace(identity, **wrong), torch.ones(8), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_identity(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "said",
    [
        {},
        [],
        "int8",
        7,
        {"precision": "int8"},
        {"precision": 8, "approximations": []},
        {"precision": "int8", "approximations": "int8"},
        {"precision": "int8", "approximations": {"int8": 1}},
        {"precision": "int8", "approximations": 3},
        {"precision": "int8", "approximations": [["int8"]]},
        {"precision": "int8", "approximations": ["a"] * 100},
        {"precision": "int8", "approximations": ["a" * 61]},
        {"precision": "int8" * 1000, "approximations": []},
        {"precision": "int8", "approximations": ["\x1b[2J\n note: all is well"]},
    ],
)
def test_how_features_were_made_is_said_in_few_plain_words(
    said: Any, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = identity_file._facts
    monkeypatch.setattr(identity_file, "_facts", lambda identity: facts(identity) | {"made": said})
    write_identity(identity, torch.ones(8), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_identity(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_a_fingerprint_that_would_be_near_to_any_is_none(
    value: float, identity: Identity, tmp_path: Path
) -> None:
    write_identity(identity, torch.full((8,), value), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_identity(tmp_path / "a.safetensors")
    assert not same_model(torch.full((8,), value), torch.ones(8))
