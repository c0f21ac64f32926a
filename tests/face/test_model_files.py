"""Face models that are missing, damaged, another network, or reach beyond themselves: said, never run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from hallo3.errors import CheckpointError
from hallo3.face import arcface
from hallo3.face import scrfd as detector
from hallo3.face.scrfd import ANTELOPE
from hallo3.onnx_model import open_network, read_ports
from support import onnx_builder as onnx_files
from support.onnx_builder import field, node, port, tensor

GOOD = onnx_files.recognizer()


def elsewhere(location: str) -> bytes:
    """Weights in another file."""
    entry = field(1, "location") + field(2, location)
    return tensor("far", [1.0], field(13, entry), field(14, 1))


def inside(content: bytes, depth: int = 1) -> bytes:
    """A weight inside a graph inside a node, as ``If`` has them; so deep."""
    graph = field(5, content)
    for _ in range(depth):
        branch = field(1, "then_branch") + field(6, graph) + field(20, 5)
        graph = field(1, node("If", "yes", "out", field(5, branch)))
    return graph


CONSTANT = field(1, "value") + field(5, elsewhere("x")) + field(20, 4)
UNSAFE: dict[str, dict[str, bytes]] = {
    "a folder up": {"in_graph": field(5, elsewhere("../weights"))},
    "absolute": {"in_graph": field(5, elsewhere("/etc/hostname"))},
    "a link beside it": {"in_graph": field(5, elsewhere("link"))},
    "named only": {"in_graph": field(5, tensor("far", [1.0], field(14, 1)))},
    "listed only": {
        "in_graph": field(5, tensor("far", [1.0], field(13, field(1, "location") + field(2, "x"))))
    },
    "sparse": {"in_graph": field(15, field(1, elsewhere("x")))},
    "sparse in a node": {"in_graph": field(1, node("Constant", "", "c", field(5, field(22, b""))))},
    "in a constant": {"in_graph": field(1, node("Constant", "", "c", field(5, CONSTANT)))},
    "in a graph inside": {"in_graph": inside(elsewhere("x"), 3)},
    "graphs without end": {"in_graph": inside(b"", 30)},
    "foreign operator": {"in_graph": field(1, node("Trick", "pixels", "t", field(7, "com.example")))},
    "foreign set": {"in_model": field(8, field(1, "com.example") + field(2, 1))},
    "functions": {"in_model": field(25, field(1, "f"))},
    "training": {"in_model": field(20, b"")},
}


@pytest.fixture
def _no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime must not even be asked for."""

    class Trap(ModuleType):
        def __getattr__(self, name: str) -> NoReturn:
            raise AssertionError(name)

    monkeypatch.setitem(sys.modules, "onnxruntime", Trap("onnxruntime"))


@pytest.mark.usefixtures("_no_session")
@pytest.mark.parametrize("more", UNSAFE.values(), ids=UNSAFE.keys())
def test_what_reaches_beyond_its_file_is_refused_before_a_session(
    tmp_path: Path, more: dict[str, bytes]
) -> None:
    path = tmp_path / arcface.FILE
    path.write_bytes(onnx_files.recognizer(**more))
    with pytest.raises(CheckpointError, match=r"is refused: .*(.|\n)*glintr100\.onnx"):
        open_network(path, arcface.EXPECTED, ANTELOPE)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "web page": (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
    "zip": (b"PK\x03\x04" + bytes(60), "still packed"),
    "zeros": (bytes(5000), "damaged or cut short"),
    "ones": (b"\xff" * 5000, "damaged or cut short"),
    "text": (b"Hello, this is no model at all", "damaged or cut short"),
    "no graph": (field(1, 8), "no graph"),
    "two graphs": (GOOD + GOOD, "several graphs"),
    "safetensors": (b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", "damaged or cut short"),
}


@pytest.mark.usefixtures("_no_session")
@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_no_model_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / detector.FILE
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"scrfd_10g_bnkps\.onnx: .*{said}"):
        open_network(path, detector.EXPECTED, ANTELOPE)


@pytest.mark.usefixtures("_no_session")
def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """At every byte: before the last field nothing is whole; after it, nothing is missing."""
    path = tmp_path / arcface.FILE
    whole = len(GOOD) - len(field(8, field(1, "") + field(2, 13)))
    for size in range(whole):
        with pytest.raises(CheckpointError):
            read_ports(GOOD[:size], path)
    assert read_ports(GOOD, path).inputs[0].shape == (None, 3, 112, 112)


def test_noise_is_refused_and_never_crashes() -> None:
    path = Path(arcface.FILE)
    for at in range(len(GOOD)):
        for value in (0, 255, GOOD[at] ^ 1):
            changed = GOOD[:at] + bytes([value]) + GOOD[at + 1 :]
            try:
                read_ports(changed, path)
            except CheckpointError:
                continue


OTHER: dict[str, tuple[str, Any, bytes]] = {
    "the other file": (arcface.FILE, arcface.EXPECTED, onnx_files.detector()),
    "the other way round": (detector.FILE, detector.EXPECTED, onnx_files.recognizer()),
    "another size": (arcface.FILE, arcface.EXPECTED, onnx_files.recognizer(side=160)),
    "another length": (arcface.FILE, arcface.EXPECTED, onnx_files.recognizer(numbers=256)),
    "another input size": (detector.FILE, detector.EXPECTED, onnx_files.detector(320)),
    "a further input": (
        arcface.FILE,
        arcface.EXPECTED,
        onnx_files.recognizer(in_graph=field(11, port("more", [1]))),
    ),
    "whole numbers": (
        arcface.FILE,
        arcface.EXPECTED,
        onnx_files.model([], [], [port("i", [1, 3, 112, 112], 7)], [port("o", [1, 512])]),
    ),
    "nothing": (arcface.FILE, arcface.EXPECTED, onnx_files.model([], [], [], [])),
}


@pytest.mark.usefixtures("_no_session")
@pytest.mark.parametrize(("name", "expected", "content"), OTHER.values(), ids=OTHER.keys())
def test_another_network_is_refused_with_what_it_takes(
    tmp_path: Path, name: str, expected: Any, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: takes (.|\n)*one input \["):
        open_network(tmp_path / name, expected, ANTELOPE)


def test_a_weight_that_is_listed_as_an_input_is_none(tmp_path: Path) -> None:
    """As older exporters write them."""
    content = onnx_files.recognizer(in_graph=field(11, port("one", [1], 7)))
    assert [each.name for each in read_ports(content, tmp_path).inputs] == ["pixels"]


def test_a_network_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path = tmp_path / arcface.FILE
    ports = [port("pixels", [1, 3, 112, 112])], [port("embedding", [1, 512])]
    path.write_bytes(onnx_files.model([node("NoSuch", "pixels", "embedding")], [], *ports))
    with pytest.raises(CheckpointError, match=r"cannot be run(.|\n)*glintr100\.onnx"):
        open_network(path, arcface.EXPECTED, ANTELOPE)


def test_a_folder_in_place_of_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / arcface.FILE).mkdir()
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_network(tmp_path / arcface.FILE, arcface.EXPECTED, ANTELOPE)
    with pytest.raises(CheckpointError, match="missing"):
        open_network(tmp_path / "absent.onnx", arcface.EXPECTED, ANTELOPE)
