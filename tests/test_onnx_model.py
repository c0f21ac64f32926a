"""ONNX files: the published ones by hash, another one only if accepted, and only with the right ports."""

import os
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from hallo3.errors import CheckpointError, DependencyError
from hallo3.face.arcface import RECOGNIZER_FILENAME, Recognizer
from hallo3.face.scrfd import ANTELOPE, Detector
from hallo3.onnx_model import Expected, open_network
from support import onnx_builder
from support.messages import expect_message
from support.onnx_builder import field, node, port, tensor
from support.own_process import measure_growth

GOOD, EXPECTED = onnx_builder.recognizer(), Recognizer.expected


@pytest.fixture
def _no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


@pytest.fixture
def _onnxruntime() -> None:
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")


def write(folder: Path, content: bytes) -> Path:
    (folder / RECOGNIZER_FILENAME).write_bytes(content)
    return folder / RECOGNIZER_FILENAME


REFUSED = {
    "another network": (GOOD, "SHA-256 [0-9a-f]{64}"),
    "empty": (b"", "an empty file"),
    "web page": (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "zip": (b"PK\x03\x04" + bytes(60), "still packed"),
}


@pytest.mark.usefixtures("_no_onnxruntime")
@pytest.mark.parametrize(("content", "found"), REFUSED.values(), ids=REFUSED.keys())
def test_another_file_is_refused_before_it_runs(tmp_path: Path, content: bytes, found: str) -> None:
    text = rf"not the published one(?s:.*){found}(?s:.*)4ab1d643"
    with pytest.raises(CheckpointError, match=text) as error:
        open_network(write(tmp_path, content), EXPECTED, ANTELOPE)
    assert "--faces-unverified" in error.value.fix


@pytest.mark.usefixtures("_onnxruntime")
def test_the_published_file_runs_without_a_word(tmp_path: Path) -> None:
    expected = replace(EXPECTED, sha256=sha256(GOOD).hexdigest())
    network = open_network(write(tmp_path, GOOD), expected, ANTELOPE)
    (embedding,) = network(torch.zeros(1, 3, 112, 112))
    assert embedding.shape == (1, 512)


@pytest.mark.usefixtures("_onnxruntime")
def test_a_file_that_is_accepted_unverified_runs_with_a_warning(tmp_path: Path) -> None:
    for more in (b"", field(11, port("one", [1], 7))):  # weights listed as inputs, as older exporters do
        path = write(tmp_path, onnx_builder.recognizer(in_graph=more))
        with expect_message("not the published file"):
            network = open_network(path, EXPECTED, ANTELOPE, unverified=True)
        assert network.input == "pixels"


WHOLE = ([port(name, [1, 3, 112, 112], 7)] for name in "io")
OTHER: dict[str, tuple[Expected, bytes]] = {
    "the other file": (EXPECTED, onnx_builder.detector()),
    "the other way round": (Detector.expected, GOOD),
    "another size": (EXPECTED, onnx_builder.recognizer(side=160)),
    "another length": (EXPECTED, onnx_builder.recognizer(numbers=256)),
    "another input size": (Detector.expected, onnx_builder.detector(320)),
    "a further input": (EXPECTED, onnx_builder.recognizer(in_graph=field(11, port("more", [1])))),
    "whole numbers": (EXPECTED, onnx_builder.model([node("Identity", "i", "o")], [], *WHOLE)),
}


@pytest.mark.usefixtures("_onnxruntime")
@pytest.mark.parametrize(("expected", "content"), OTHER.values(), ids=OTHER.keys())
def test_a_file_with_other_ports_is_refused(tmp_path: Path, expected: Expected, content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"glintr100\.onnx: takes (?s:.*)one input \["):
        open_network(write(tmp_path, content), expected, ANTELOPE, unverified=True)


PORTS = [port("pixels", [1, 3, 112, 112])], [port("embedding", [1, 512])]


def with_weights_at(location: str) -> bytes:
    """A network whose weights are in another file."""
    entry = field(1, "location") + field(2, location)
    sizes = field(1, 1) + field(2, 1) + field(8, "far") + field(13, entry) + field(14, 1)
    return onnx_builder.model([node("Mul", "pixels far", "embedding")], [sizes], *PORTS)


def holding(*nodes: bytes, **graph: bytes) -> bytes:
    """The good network, with further nodes and fields in its graph."""
    return onnx_builder.recognizer(in_graph=b"".join([*(field(1, each) for each in nodes), *graph.values()]))


def control(operator: str, number: int = 6) -> bytes:
    """A node with a graph inside, which has a node."""
    inside = field(1, "body") + field(number, field(1, node("Identity", "pixels", "t"))) + field(20, 5)
    return node(operator, "pixels", "t", field(5, inside))


OUTSIDE = tensor("far", [1.0], field(13, field(1, "location") + field(2, "weights")))
FORBIDDEN = {
    "noise": (b"\xff" * 5000, "no ONNX model"),
    "cut": (GOOD[:-300], "not a whole one"),
    "empty": (b"", "0 graphs"),
    "web page": (b"<!DOCTYPE html>", "a web page"),
    "two graphs": (GOOD + GOOD, "2 graphs"),
    **{
        name: (holding(control(name)), "Loop, If and Scan|operator") for name in ("Loop", "If", "Scan", "Odd")
    },
    "many graphs inside": (holding(control("Odd", 11)), "Loop, If and Scan"),
    "control flow without a graph": (holding(node("Scan", "pixels", "t")), "operator Scan"),
    "operator named twice": (holding(node("Add", "pixels", "t") + field(4, "If")), "operator If"),
    "another form": (field(2, b"abORTM") + GOOD, "own form"),
    "function": (GOOD + field(25, field(1, "f") + field(7, control("Loop"))), "functions"),
    "training": (GOOD + field(20, field(1, b"")), "training"),
    "another domain": (holding(node("Trick", "pixels", "t", field(7, "com.example"))), "com.example"),
    "weights in a folder above": (with_weights_at("../weights"), "weights in another file"),
    "weights anywhere": (with_weights_at("/etc/hostname"), "weights in another file"),
    "weights outside, in an attribute": (
        holding(node("Constant", "", "t", field(5, field(1, "value") + field(5, OUTSIDE)))),
        "weights in another file",
    ),
    "sparse weights": (holding(more=field(15, b"")), "sparse"),
    "sparse value": (holding(node("Constant", "", "t", field(5, field(22, b"")))), "sparse"),
    "many parts": (holding(more=field(1, b"") * 200_001), "more than 200,000 parts"),
}


@pytest.mark.usefixtures("_no_onnxruntime")
@pytest.mark.parametrize(("content", "found"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_reaches_beyond_plain_operators_is_refused_unread(
    tmp_path: Path, content: bytes, found: str
) -> None:
    with pytest.raises(
        CheckpointError, match=rf"refused, also unverified(?s:.*)glintr100\.onnx: .*({found})"
    ):
        open_network(write(tmp_path, content), EXPECTED, ANTELOPE, unverified=True)


@pytest.mark.usefixtures("_onnxruntime")
def test_an_unverified_file_cannot_ask_for_any_memory(tmp_path: Path) -> None:
    unknown = onnx_builder.model([node("NoSuch", "pixels", "embedding")], [], *PORTS)
    with pytest.raises(CheckpointError, match=r"cannot be run(?s:.*)glintr100\.onnx"):
        open_network(write(tmp_path, unknown), EXPECTED, ANTELOPE, unverified=True)
    bomb = [node("ConstantOfShape", "many", "t"), node("ReduceSum", "t", "embedding")]
    path = write(tmp_path, onnx_builder.model(bomb, [tensor("many", [1, 1 << 33])], *PORTS))
    with expect_message("not the published file"):
        network = open_network(path, EXPECTED, ANTELOPE, unverified=True)
    with measure_growth() as growth, pytest.raises(CheckpointError, match="smaller than requested"):
        network(torch.zeros(1, 3, 112, 112))
    assert growth[0] < 100


@pytest.mark.usefixtures("_no_onnxruntime")
def test_no_file_and_no_onnxruntime_are_errors(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.onnx")
    wrong = {tmp_path: "a folder", pipe: "not a regular file", Path("/dev/zero"): "not a regular file"}
    for path, message in (wrong | {tmp_path / "absent.onnx": "missing"}).items():
        with pytest.raises(CheckpointError, match=message):
            open_network(path, EXPECTED, ANTELOPE)
    with pytest.raises(DependencyError, match="pip install onnxruntime"):
        open_network(write(tmp_path, GOOD), EXPECTED, ANTELOPE, unverified=True)
