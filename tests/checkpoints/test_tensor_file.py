"""Files of tensors: what torch and safetensors wrote is read bit for bit; the rest is refused in words."""

import io
import os
import struct
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor

from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.source import open_source
from hallo3.checkpoints.tensor_entry import NAMES
from hallo3.checkpoints.tensor_file import TensorFile
from hallo3.errors import CheckpointError, DependencyError
from support import hostile_files as hostile
from support.own_process import measure_growth

GOOD = hostile.checkpoint()


def equal(a: Tensor, b: Tensor) -> bool:
    """Bit for bit."""
    raw = (tensor.flatten().view(torch.uint8) for tensor in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


@pytest.mark.parametrize("dtype", NAMES, ids=str)
def test_every_type_is_read_from_both_containers(tmp_path: Path, dtype: torch.dtype) -> None:
    drawn = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)) * 3
    values = (drawn > 0) if dtype == torch.bool else drawn.to(dtype)
    state = {"a": values, "scalar": values[0, 0].clone(), "none": values[:0].clone()}
    for write, path in (torch.save, tmp_path / "a.pt"), (save_file, tmp_path / "a.safetensors"):
        write(state, path)
        with TensorFile(path) as file:
            assert set(file.entries) == set(state)
            assert all(equal(file.read(key), tensor) for key, tensor in state.items())


def test_views_are_read_as_they_were_seen(tmp_path: Path) -> None:
    whole = torch.arange(60.0).reshape(3, 4, 5)
    state = {"transposed": whole.transpose(0, 2), "row": whole[1], "column": whole[:, :, 2], "again": whole}
    state |= {"parameter": torch.nn.Parameter(whole[0]), "steps": whole[:, ::2]}
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
    save_file(big, path)
    with TensorFile(path) as file:  # one that is replaced or deleted still gives the old values
        save_file({"a": torch.zeros(99)}, tmp_path / "new")
        (tmp_path / "new").replace(path)
        assert torch.equal(file.read("a"), big["a"])
        path.unlink()
        assert torch.equal(file.read("a"), big["a"])


def good_files() -> list[bytes]:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3)}, buffer, pickle_protocol=4)
    small = hostile.archive(hostile.state(hostile.tensor()))
    return [GOOD, small, buffer.getvalue(), save({"a": torch.zeros(2)})]


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
    with suppress(CheckpointError), TensorFile(path) as file:
        for name in file.entries:
            file.read(name)


SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of GGUF's kinds of values."""


@pytest.mark.parametrize("alignment", [0, 8, 16, 32, 64, 128, 256, 4096])
def test_ggufs_are_read_by_their_header(tmp_path: Path, alignment: int) -> None:
    """Every kind of field is stepped over; tensors are where the header says."""
    path, field = tmp_path / "a.gguf", hostile.gguf_field
    fields = [field(kind, b"\7" * size) for kind, size in SCALARS.items()]
    fields += [field(9, struct.pack("<IQ", kind, 3) + b"\7" * 3 * size) for kind, size in SCALARS.items()]
    texts = hostile.gguf_text("ä" * 70) * 2
    fields += [field(8, texts[: len(texts) // 2]), field(9, struct.pack("<IQ", 8, 2) + texts)]
    fields += [field(4, struct.pack("<I", 7), "general.architecture")]  # no text: not believed
    fields += [field(10, struct.pack("<Q", 7), "general.alignment")]  # of another type
    fields += [field(8, hostile.gguf_text("t" * 90), "general.architecture")]
    fields += [hostile.aligned(alignment)] if alignment else []
    values = torch.arange(24.0)
    rows: list[hostile.GGUFRow] = [
        ("four", (4, 3, 2, 1), 0, 0),
        ("half", (8,), 1, 96),
        ("words", (2, 2), 27, 112),
        ("eights", (32,), 8, 144),
        ("none", (0,), 0, 178),
        ("last", (1,), 0, 178),
    ]
    numbers = values[:8].half().numpy().tobytes(), torch.arange(4).numpy().tobytes()
    eights = struct.pack("<e32b", 0.5, *range(32))
    data = values.numpy().tobytes() + b"".join(numbers) + eights + struct.pack("<f", 2.5)
    for version in (2, 3):
        path.write_bytes(hostile.gguf(rows, fields, data, version, alignment or 32))
        with TensorFile(path) as file:
            assert list(file.entries) == [name for name, *_ in rows]
            assert file.metadata == {"architecture": "t" * 80}
            assert torch.equal(file.read("four"), values.reshape(1, 2, 3, 4))
            assert equal(file.read("half"), values[:8].half())
            assert equal(file.read("words"), torch.arange(4).reshape(2, 2))
            assert torch.equal(file.read("eights"), torch.arange(32) / 2)
            assert torch.equal(torch.cat(list(file.pieces("eights", 3, 9, 4))), torch.arange(3, 9) / 2)
            assert file.read("none").shape == (0,)
            assert equal(file.read("last"), torch.tensor([2.5]))
            entry = file.entries["eights"]
            assert (entry.quantised, entry.stored, entry.span, entry.nbytes) == ("Q8_0", 34, 34, 128)
            assert [file.entries[name].quantised for name in ("four", "half", "words")] == ["", "", ""]
        path.write_bytes(path.read_bytes()[:-1])
        assert "'last' of 4 bytes" in str(refusal(path))
    path.write_bytes(hostile.gguf([("a", (32,), 9, 0)], [], bytes(40)))
    with TensorFile(path) as file, pytest.raises(CheckpointError, match=r"not read\.\n.*Q8_1: .*"):
        file.read("a")


def test_ggufs_need_their_library_and_names_need_no_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(hostile.gguf([("zz", (8,), 0, 0)], [], bytes(32)).replace(b"zz", b"z\xff"))
    with TensorFile(path) as file:
        assert [*file.entries] == ["z\ufffd"]
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DependencyError, match="pip install gguf, or use safetensors"):
        TensorFile(path)


def test_names_of_older_archives_are_read(tmp_path: Path) -> None:
    """In the letters of DOS, not in UTF-8."""
    raw = hostile.archive(hostile.state(hostile.tensor()), **{"archive/zz": b"x"})
    (tmp_path / "a.pt").write_bytes(raw.replace(b"archive/zz", b"archive/z\x81"))
    with TensorFile(tmp_path / "a.pt") as file:
        assert "archive/z\xfc" in [member.name for member in file.members]


def test_the_largest_headers_are_read(tmp_path: Path) -> None:
    path, fields = tmp_path / "a.gguf", [hostile.gguf_field(7, b"\0")] * 4096
    path.write_bytes(hostile.gguf([(str(n), (8,), 0, 0) for n in range(20_000)], fields, bytes(32)))
    with TensorFile(path) as file:
        assert len(file.entries) == 20_000
    path.write_bytes(save({}))
    with TensorFile(path) as file:
        assert file.entries == {}


RAW = ("central directory", "NoneType", "index out of range", "Traceback", "KeyError", "struct.error")


PICKLES = {"program": hostile.programs(Path(hostile.MARK)), "bomb": hostile.bombs(), "liar": hostile.liars()}
FILES = {"zip": hostile.zips(GOOD), "header": hostile.headers(), "gguf": hostile.ggufs()}
FILES["foreign"] = hostile.foreign(GOOD)
CASES = {f"{kind}: {name}": hostile.archive(data) for kind, each in PICKLES.items() for name, data in each}
CASES |= {f"{kind}: {name}": data for kind, each in FILES.items() for name, data in each}


def refusal(path: Path) -> CheckpointError:
    """The error with which a file is refused, within 100 MB."""
    with measure_growth() as growth, pytest.raises(CheckpointError) as raised:
        TensorFile(path)
    assert growth[0] < 100
    return raised.value


WORDS = {
    "foreign: web page": "web page",
    "foreign: LFS pointer": "git lfs pull",
    "foreign: 7z": "7z archive",
    "foreign: empty": "empty",
    "foreign: legacy torch": "before 1.6",
    "foreign: zeros": "zeros",
    "foreign: text": "Entry not found",
    "program: os.system": "posix.system",
}
"""What the error says of a file."""


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(CASES[name])
    error = refusal(path)
    assert "weights.pt" in str(error)
    assert WORDS.keys() <= CASES.keys()
    assert WORDS.get(name, "") in str(error)
    assert all((error.found, error.expected, error.fix))
    assert not any(word in str(error) for word in RAW)
    assert not Path(hostile.MARK).exists()
    if name.startswith("program"):
        assert "run" in error.headline or "damaged" in error.headline
    if name.startswith("foreign: cut"):
        assert "incomplete" in str(error) or "damaged" in str(error) or "text" in str(error)


def test_what_is_not_hostile_is_not_called_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    complex_numbers = torch.zeros(2, dtype=torch.complex64)
    for value, word in ((complex_numbers, "type that is not read"), (torch.nn.Linear(1, 1), "program")):
        torch.save({"state_dict": {"a": torch.ones(1)}, "x": value}, path)
        assert word in str(refusal(path))


def test_a_name_cannot_forge_lines(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"\x1b[2K\rcomplete\nall good": torch.ones(2)}, path)
    with pytest.raises(CheckpointError) as raised, open_source(path) as source:
        find_component(source, "transformer")
    assert not set(str(raised.value)) & {"\x1b", "\r"}
    assert len(str(raised.value).splitlines()) == 4


def test_bookkeeping_of_other_programs_is_passed_over(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pt", np.random.RandomState(0).get_state()
    arguments, folder = Namespace(lr=1e-5, nested=Namespace(a=[1, {2: 3}])), PurePosixPath("x")
    plain = {"names": {"a", "b"}, "frozen": frozenset({1}), "nothing": None, "large": 1 << 70}
    beside = {"args": arguments, "np_rng_state": state, "scalar": np.float64(0.5), "folder": folder}
    path.write_bytes(hostile.checkpoint(**beside, **plain))
    with TensorFile(path) as file:
        assert set(file.entries) == {"a", "b"}
        assert file.read("a").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert "argparse.Namespace" in file.beside["args"]


def test_other_things_than_files_are_refused_at_once(tmp_path: Path) -> None:
    pipe, loop, dangling = tmp_path / "pipe", tmp_path / "loop", tmp_path / "dangling"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "nowhere")
    for path, word in ((tmp_path, "folder"), (pipe, "pipe"), (Path("/dev/zero"), "device")):
        assert word in str(refusal(path))
    for path in (loop, dangling, tmp_path / "absent", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        refusal(path)


def test_a_download_in_progress_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(GOOD)
    for ending in (".aria2", ".part", ".incomplete"):
        beside = path.with_name(path.name + ending)
        beside.touch()
        assert "downloading" in str(refusal(path))
        beside.unlink()
    TensorFile(path).close()
