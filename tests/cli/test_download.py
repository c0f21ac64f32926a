import inspect
import json
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from hallo3.cli import download
from hallo3.cli.main import main

VOCALS = "audio_separator/Kim_Vocal_2.onnx"
WEIGHTS = "hallo3/1/mp_rank_00_model_states.pt"
FILES = {
    "hallo3/latest": b"1",
    WEIGHTS: b"weights" * 100,
    "wav2vec/wav2vec2-base-960h/model.safetensors": b"speech" * 50,
    "face_analysis/models/glintr100.onnx": b"faces",
    "face_analysis/models/genderage.onnx": b"not needed",
    "audio_separator/Kim_Vocal_2.onnx": b"vocals",
    "README.md": b"not needed",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub with ``FILES`` that records its requests."""
    requests: dict[str, Any] = {"files": dict(FILES)}

    class Api:
        def model_info(self, repository: str, revision: str, files_metadata: bool) -> Any:
            assert files_metadata
            assert repository == "fudan-generative-ai/hallo3"
            requests["revision"] = revision
            return SimpleNamespace(sha="c0ffee" * 6, siblings=[sibling(*item) for item in FILES.items()])

    def sibling(name: str, content: bytes) -> Any:
        lfs = SimpleNamespace(sha256=sha256(content).hexdigest()) if len(content) > 99 else None
        return SimpleNamespace(rfilename=name, size=len(content), lfs=lfs)

    def snapshot(repository: str, revision: str, allow_patterns: list[str], local_dir: str) -> None:
        requests["fetched"], requests["from"] = allow_patterns, (repository, revision)
        for name in allow_patterns:
            path = Path(local_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(requests["files"][name])

    module = SimpleNamespace(HfApi=Api, snapshot_download=snapshot)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return requests


def test_needed_files_and_their_commit(tmp_path: Path, hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", str(tmp_path), "--dry-run"]) == 0
    assert "fetched" not in hub
    assert main(["download", str(tmp_path), "--part", "transformer"]) == 0
    assert sorted(hub["fetched"]) == [WEIGHTS, "hallo3/latest"]
    assert hub["revision"] == "main"
    assert "python -m hallo3 convert" in capsys.readouterr().out
    assert main(["download", str(tmp_path)]) == 0
    assert hub["revision"] == "c0ffee" * 6
    noted = json.loads((tmp_path / "hallo3-download.json").read_text())
    assert set(noted["files"]) == {name for name, content in FILES.items() if content != b"not needed"} - {
        VOCALS
    }
    assert main(["download", str(tmp_path), "--part", "vocals"]) == 0
    assert hub["fetched"] == [VOCALS]


def test_a_download_that_does_not_fit_is_refused_before_it_starts(
    tmp_path: Path, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["download", str(tmp_path), "--part", "transformer"]
    monkeypatch.setattr(download, "free_disk", lambda _: 700)
    assert main(command) == 1
    assert "701 bytes, and 17.8 GB for converting" in capsys.readouterr().err
    assert "fetched" not in hub
    (tmp_path / "hallo3").mkdir()
    (tmp_path / "hallo3/latest").write_bytes(b"1")  # is there already
    assert main(command) == 0


def test_a_failed_download_is_reported(tmp_path: Path, hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(code: int) -> str:
        assert main(["download", str(tmp_path)]) == code
        return capsys.readouterr().err

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("name resolution failed")  # as httpx's, which are no OSErrors

    for wrong, word in ((b"WEIGHTS" * 100, "SHA-256"), (b"weights", "7 bytes")):
        hub["files"][WEIGHTS] = wrong
        assert word in refusal(2)
    for called in ("snapshot_download", "HfApi"):
        setattr(sys.modules["huggingface_hub"], called, fails)
        assert "resumes where it stopped" in refusal(1)


def test_the_real_library_has_the_functions_that_are_called() -> None:
    assert issubclass(HfHubHTTPError, OSError)
    wanted = {"revision", "allow_patterns", "local_dir"}
    assert wanted <= set(inspect.signature(huggingface_hub.snapshot_download).parameters)
    assert "files_metadata" in inspect.signature(huggingface_hub.HfApi.model_info).parameters
