"""Whatever is wrong with a file, it is told in words, quickly, in little memory, and nothing runs."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hallo3.checkpoints.component import find_component
from hallo3.checkpoints.source import open_source
from hallo3.checkpoints.tensor_file import TensorFile
from hallo3.errors import CheckpointError
from support import hostile_files
from support import hostile_pickles as hostile

GOOD = hostile.checkpoint()
RAW = ("central directory", "NoneType", "index out of range", "Traceback", "KeyError", "struct.error")


def cases(mark: Path) -> dict[str, bytes]:
    found = {f"program: {name}": hostile.archive(data) for name, data in hostile.programs(mark)}
    found |= {f"bomb: {name}": hostile.archive(data) for name, data in hostile.bombs()}
    found |= {f"liar: {name}": hostile.archive(data) for name, data in hostile.liars()}
    found |= {f"zip: {name}": data for name, data in hostile_files.zips(GOOD)}
    found |= {f"header: {name}": data for name, data in hostile_files.headers()}
    found |= {f"gguf: {name}": data for name, data in hostile_files.ggufs()}
    return found | {f"foreign: {name}": data for name, data in hostile_files.foreign(GOOD)}


CASES = cases(Path(hostile.MARK))


def peak_kb() -> int:
    """The most memory since it was asked last (Linux); elsewhere, of the whole process."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    reset.write_text("5")
    return int(peak.split()[1])


def refusal(path: Path) -> CheckpointError:
    """The error with which a file is refused, within 100 MB."""
    peak_kb()
    before = peak_kb()
    with pytest.raises(CheckpointError) as raised:
        TensorFile(path)
    assert peak_kb() - before < 100 << 10
    return raised.value


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(CASES[name])
    error = refusal(path)
    assert "weights.pt" in str(error)
    assert error.found
    assert error.expected
    assert error.fix
    assert not any(word in str(error) for word in RAW)
    assert not Path(hostile.MARK).exists()
    if name.startswith("program"):
        assert "run" in error.headline or "damaged" in error.headline
    if name.startswith("foreign: cut"):
        assert "incomplete" in str(error) or "damaged" in str(error) or "text" in str(error)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("web page", "web page"),
        ("LFS pointer", "git lfs pull"),
        ("7z", "7z archive"),
        ("empty", "empty"),
        ("legacy torch", "before 1.6"),
        ("zeros", "zeros"),
        ("text", "Entry not found"),
    ],
)
def test_what_it_is_instead_is_said(tmp_path: Path, name: str, word: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(CASES[f"foreign: {name}"])
    assert word in str(refusal(path))


def test_the_name_of_what_would_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(CASES["program: os.system"])
    assert "posix.system" in refusal(path).found


def test_what_is_not_hostile_is_not_called_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for value, word in (
        (torch.zeros(2, dtype=torch.complex64), "type that is not read"),
        (torch.nn.Linear(1, 1), "program"),
    ):
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
    from argparse import Namespace
    from pathlib import PurePosixPath

    import numpy as np

    path = tmp_path / "weights.pt"
    path.write_bytes(
        hostile.checkpoint(
            args=Namespace(lr=1e-5, nested=Namespace(a=[1, {2: 3}])),
            np_rng_state=np.random.RandomState(0).get_state(),
            scalar=np.float64(0.5),
            folder=PurePosixPath("x"),
            names={"a", "b"},
            frozen=frozenset({1}),
            nothing=None,
            large=1 << 70,
        )
    )
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
