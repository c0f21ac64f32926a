"""``hallo3 serve`` before it serves: who may reach it, and what a request may ask for."""

import socket
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from hallo3.cli import serve
from hallo3.cli.main import main
from hallo3.cli.network_options import ServeOptions
from hallo3.cli.options import TOKEN_VARIABLE, AnimateOptions
from hallo3.errors import InputError


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["serve", *words]) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", ""])
def test_other_computers_need_a_token(host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi")
    assert "needs a token" in refusal(capsys, str(tmp_path / "v"), "--host", host)
    assert not (tmp_path / "v").exists()


def test_a_token_is_long_and_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    for bad in ("", "short", "a b" * 20, "é" * 20, "x" * 20 + "\ny"):
        path.write_text(bad, encoding="utf-8")
        with pytest.raises(InputError, match="token cannot be used"):
            serve.read_token(ServeOptions(folder=tmp_path, token_file=path))
    path.write_text("0123456789abcdef\n", encoding="utf-8")
    assert serve.read_token(ServeOptions(folder=tmp_path, token_file=path)) == "0123456789abcdef"
    assert serve.read_token(ServeOptions(folder=tmp_path)) == ""
    monkeypatch.setenv(TOKEN_VARIABLE, "fedcba9876543210")
    assert serve.read_token(ServeOptions(folder=tmp_path)) == "fedcba9876543210"


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "cannot use this address" in refusal(capsys, str(tmp_path), "--port", port)


@pytest.mark.parametrize(
    "limit", ["--max-queue=0", "--max-upload=nan", "--max-minutes=-1", "--keep=-1", "--port=70000"]
)
def test_limits_are_numbers_that_limit(
    limit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    assert "out of range" in refusal(capsys, str(tmp_path / "v"), limit)


def test_without_fastapi_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("hallo3.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(tmp_path)]) == 1
    assert "hallo3[serve]" in capsys.readouterr().err


def test_a_request_names_no_file_and_not_how_the_server_computes() -> None:
    """A new option is listed here, or it is no request's."""
    mine = set(serve.requested())
    assert mine == {
        *(
            "approximate",
            "chapter_join",
            "chapters",
            "codec",
            "enlarge",
            "face",
            "face_box",
            "framing",
            "guidance",
            "hearing",
            "level",
        ),
        *(
            "fps",
            "no_mark",
            "paste_back",
            "pixels",
            "prompt",
            "quality",
            "sampler",
            "seams",
            "seed",
            "silence",
            "steps",
            "track",
        ),
        *("text_strength", "trial", "voice_strength", "whole_picture"),
    }
    paths = {each.name for each in fields(AnimateOptions) if "Path" in str(each.type)}
    assert not mine & paths


def test_a_gpu_each_has_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve.find_devices("cpu") == ["cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert serve.find_devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert serve.find_devices("cuda:1") == ["cuda:1"]
