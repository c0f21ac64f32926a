"""The key of a video: MediaPipe's file and package count where they make the face mask, and only there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hallo3.cli import request as known
from hallo3.config import FaceConfig
from hallo3.face.mediapipe import TASK_FILENAME
from support.fake_mediapipe import install_mediapipe, make_task_file


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The weights that the key names, for a request with a folder of face files."""
    monkeypatch.setattr(known, "verify_component", lambda *_: ["hash"])
    (tmp_path / "scrfd_10g_bnkps.onnx").write_bytes(b"network")

    def named(*, space: str = FaceConfig().space) -> dict[str, list[str]]:
        request: Any = SimpleNamespace(
            config=SimpleNamespace(face=SimpleNamespace(space=space)),
            verifier=None,
            files=SimpleNamespace(find=Path, faces=tmp_path, tokenizer=tmp_path / "nowhere"),
            options=SimpleNamespace(prompt=""),
            subject=SimpleNamespace(identity=None),
            separator=None,
        )
        return known.AnimateRequest._weight_hashes(request)

    return named


def test_the_file_and_the_version_count_where_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Any
) -> None:
    install_mediapipe(monkeypatch, version="0.10.31")
    without = weights()
    assert "faces" in without
    (tmp_path / TASK_FILENAME).write_bytes(make_task_file())
    first = weights()
    assert {name: first[name] for name in without} == without
    assert first.keys() - without.keys() == {"landmarks"}
    (tmp_path / TASK_FILENAME).write_bytes(make_task_file(face_detector=b"other numbers"))
    assert weights()["landmarks"][0] != first["landmarks"][0]
    install_mediapipe(monkeypatch, version="0.10.33")
    assert weights()["landmarks"][1] != first["landmarks"][1]


def test_what_cannot_be_used_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Any
) -> None:
    (tmp_path / TASK_FILENAME).write_bytes(make_task_file())
    install_mediapipe(monkeypatch, version="1.2.3")
    assert "landmarks" not in weights()
    install_mediapipe(monkeypatch)
    assert "landmarks" in weights()
    assert "landmarks" not in weights(space="drawn-face")
