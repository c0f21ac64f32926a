"""A file is verified once: checksums, numbers, its hash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hallo3.checkpoints.source import CheckpointSource, open_source
from hallo3.checkpoints.verify import FileVerifier, verify_file
from hallo3.errors import CheckpointError
from hallo3.progress import no_display
from support import original_checkpoints as checkpoints

CONFIG = checkpoints.NANO


def stored(folder: Path, dtype: torch.dtype = torch.bfloat16) -> CheckpointSource:
    path = folder / "mp_rank_00_model_states.pt"
    checkpoints.write_checkpoint(path, CONFIG, dtype)
    return open_source(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    state = checkpoints.module(CONFIG)
    key = "model.diffusion_model.transformer.layers.1.mlp.dense_h_to_4h.weight"
    state[key][3, 3] = value
    for name, wrapped in (("a.pt", {"module": state}), ("b.safetensors", None)):
        path = tmp_path / name
        if wrapped:
            torch.save(wrapped, path)
        else:
            save_file(dict(state), path)
        with open_source(path) as source, pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
            verify_file(source.files[0])


def test_a_flipped_byte_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    with stored(tmp_path) as source:
        assert len(verify_file(source.files[0])) == 64
        at = next(iter(source.files[0].entries.values())).offset
    path = tmp_path / "mp_rank_00_model_states.pt"
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with open_source(path) as source, pytest.raises(CheckpointError, match="checksum"):
        verify_file(source.files[0])


def test_a_file_is_verified_once_until_it_changes(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.safetensors", tmp_path / "deep" / "examined.json"
    save_file({"a": torch.ones(3)}, path)
    shown: list[str] = []

    def verified() -> bool:
        shown.clear()
        with open_source(path) as source:
            FileVerifier(cache, lambda what, _: shown.append(what) or no_display()).get_hash(source.files[0])
        return shown == ["checking a.safetensors"]

    assert [verified(), verified()] == [True, False]
    os.utime(path, ns=(1, 1))
    assert [verified(), verified()] == [True, False]
    cache.write_text("{")
    assert [verified(), verified()] == [True, False]


def test_shared_and_strided_tensors_are_looked_through(tmp_path: Path) -> None:
    x = torch.ones(10)
    x[9] = float("nan")
    grid = torch.ones(4, 4)
    grid[:, 3] = float("nan")
    cases = (
        ({"a": x[:6], "b": x[4:]}, False),
        ({"a": x[:6], "b": x[2:8]}, True),
        ({"a": grid[:, :2]}, True),
    )
    for state, good in cases:
        torch.save(state, tmp_path / "a.pt")
        with open_source(tmp_path / "a.pt") as source:
            if good:
                verify_file(source.files[0])
            else:
                with pytest.raises(CheckpointError, match="NaN or infinity in b"):
                    verify_file(source.files[0])
