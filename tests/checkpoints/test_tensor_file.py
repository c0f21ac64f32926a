"""What torch and safetensors wrote is read as they read it, bit for bit, and a changing file is noticed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from hallo3.checkpoints.tensor_entry import NAMES
from hallo3.checkpoints.tensor_file import TensorFile
from hallo3.errors import CheckpointError
from support import hostile_pickles as hostile

TYPES = list(NAMES)


def values(dtype: torch.dtype) -> Tensor:
    drawn = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)) * 3
    return (drawn > 0) if dtype == torch.bool else drawn.to(dtype)


def bits(values: Tensor) -> Tensor:
    return values.flatten().view(torch.uint8)


def equal(a: Tensor, b: Tensor) -> bool:
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and torch.equal(bits(a), bits(b))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_read_from_both_containers(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"a": values(dtype), "scalar": values(dtype)[0, 0].clone(), "none": values(dtype)[:0].clone()}
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        with TensorFile(tmp_path / name) as file:
            assert set(file.entries) == set(state)
            assert all(equal(file.read(key), tensor) for key, tensor in state.items())


def test_views_are_read_as_they_were_seen(tmp_path: Path) -> None:
    whole = torch.arange(60.0).reshape(3, 4, 5)
    state = {
        "transposed": whole.transpose(0, 2),
        "row": whole[1],
        "column": whole[:, :, 2],
        "again": whole,
        "parameter": torch.nn.Parameter(whole[0]),
        "steps": whole[:, ::2],
    }
    torch.save(state, tmp_path / "views.pt")
    with TensorFile(tmp_path / "views.pt") as file:
        for name, tensor in state.items():
            assert torch.equal(file.read(name), tensor.detach())
            pieces = list(file.pieces(name, 2, 9, 3))
            assert torch.equal(torch.cat(pieces), tensor.detach().flatten()[2:9])
            assert max(len(piece) for piece in pieces) <= 3


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_newer_pickles_are_read(tmp_path: Path, protocol: int) -> None:
    state = {"state_dict": {"a": torch.arange(3.0)}, "epoch": 4}
    torch.save(state, tmp_path / "a.ckpt", pickle_protocol=protocol)
    with TensorFile(tmp_path / "a.ckpt") as file:
        assert torch.equal(file.read("a"), torch.arange(3.0))
        assert file.beside == {"epoch": "int 4"}


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    big = {"a": torch.ones(1000), "b": torch.ones(1000)}
    save_file(big, path)
    with TensorFile(path) as file:
        os.truncate(path, 5000)
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            file.read("b")
    save_file(big, path)
    with TensorFile(path) as file:
        with path.open("r+b") as other:
            other.seek(-4, os.SEEK_END)
            other.write(b"\1\1\1\1")
        os.utime(path, ns=(1, 1))
        with pytest.raises(CheckpointError, match="changed"):
            file.read("a")


def test_a_file_that_is_deleted_or_replaced_gives_the_old_values(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(10)}, path)
    with TensorFile(path) as file:
        save_file({"a": torch.zeros(99)}, tmp_path / "new")
        (tmp_path / "new").replace(path)
        assert torch.equal(file.read("a"), torch.ones(10))
        path.unlink()
        assert torch.equal(file.read("a"), torch.ones(10))


def good_files() -> list[bytes]:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3)}, buffer, pickle_protocol=4)
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    return [
        hostile.checkpoint(),
        hostile.archive(hostile.state(hostile.tensor())),
        buffer.getvalue(),
        len(header).to_bytes(8, "little") + header + bytes(8),
    ]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_but_our_error_ever_comes_out(tmp_path: Path, data: st.DataObject) -> None:
    """Good files with bytes changed, put in, taken out or repeated: read, or refused in words."""
    raw = bytearray(data.draw(st.sampled_from(good_files())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        how = data.draw(st.sampled_from(["set", "cut", "put", "repeat"]))
        if how == "set":
            raw[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, *b"().}]cQRqru\x85\x86\x93"]))
        elif how == "put":
            raw[at:at] = data.draw(st.binary(max_size=9))
        elif how == "cut":
            del raw[at : at + data.draw(st.integers(1, 40))]
        else:
            raw[at:at] = raw[at : at + data.draw(st.integers(1, 400))]
        if not raw:
            break
    path = tmp_path / "fuzz"
    path.write_bytes(raw)
    try:
        with TensorFile(path) as file:
            for name in file.entries:
                file.read(name)
    except CheckpointError:
        pass
