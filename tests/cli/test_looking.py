"""inspect, doctor and download: what a user is told, and that nothing else happens."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hallo3.checkpoints.component_config import RELEASED_CONFIGS, build_on_meta
from hallo3.checkpoints.locate import RELEASE, ModelFolder
from hallo3.cli.main import main
from hallo3.quantization.precision import PRECISIONS
from hallo3.text_encoder import untie_embedding

GB = 1_000_000_000


def test_inspect_says_what_a_file_is(nano_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ModelFolder(nano_folder)
    assert main(["inspect", str(files.transformer), str(files.vae)]) == 0
    out = capsys.readouterr().out
    assert "transformer: Hallo3's transformer, diffusers' names" in out
    assert "belongs in models/vae" in out
    assert out.count("complete") == 2
    assert main(["inspect", "--json", str(files.reference)]) == 0
    (seen,) = json.loads(capsys.readouterr().out)
    assert seen["parts"][0]["part"] == "reference"
    assert seen["numbers"] == {"F32": seen["parts"][0]["parameters"] * 4}


def test_inspect_refuses_what_is_no_weights_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "model.safetensors"
    page.write_text("<!doctype html>")
    assert main(["inspect", str(page)]) == 2
    assert "web page" in capsys.readouterr().err


def test_doctor_finds_a_complete_model(nano_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(nano_folder)]) == 0
    assert "The model is complete." in capsys.readouterr().out


def test_doctor_says_where_the_missing_belong(
    tmp_path: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("diffusion_models", "vae", "text_encoders", "audio_encoders"):
        (tmp_path / name).mkdir()
    (tmp_path / "diffusion_models" / "hallo3_transformer_bf16.safetensors").write_text("Not Found")
    (tmp_path / "vae" / "hallo3_vae_bf16.safetensors.aria2").touch()
    reference = tmp_path / "diffusion_models" / "hallo3_reference_fp8.safetensors"
    reference.write_bytes(ModelFolder(nano_folder).reference.read_bytes())
    assert main(["doctor", str(tmp_path), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    parts = {part["part"]: part for part in report["parts"]}
    assert "text, beginning 'Not Found'" in parts["transformer"]["state"]
    assert parts["reference"]["state"] == "ready"
    assert "unfinished" in parts["vae"]["state"]
    assert "text_encoders/hallo3_t5xxl_bf16.safetensors" in parts["text_encoder"]["advice"]
    assert "9.5 GB" in parts["text_encoder"]["state"]
    assert main(["doctor", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().out.count("MISSING") == 5


def test_the_published_sizes_are_the_networks() -> None:
    for part, published in RELEASE.items():
        tensors = untie_embedding(build_on_meta(part, RELEASED_CONFIGS[part]).state_dict())
        assert published.parameters == sum(tensor.numel() for tensor in tensors.values()), part
        eight = sum(t.numel() for name, t in tensors.items() if PRECISIONS["fp8"].is_fp8(name))
        assert published.matrices == (eight if part in ("transformer", "reference") else 0)


FILES = {
    "hallo3/latest": b"1",
    "hallo3/1/mp_rank_00_model_states.pt": b"weights" * 100,
    "wav2vec/wav2vec2-base-960h/model.safetensors": b"ears" * 50,
    "README.md": b"no part",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub that has ``FILES``, and notes what it is asked."""
    asked: dict[str, Any] = {"files": dict(FILES)}

    class Api:
        def model_info(self, repository: str, revision: str, files_metadata: bool) -> Any:
            assert files_metadata
            assert repository == "fudan-generative-ai/hallo3"
            asked["revision"] = revision
            return SimpleNamespace(sha="c0ffee" * 6, siblings=[sibling(*item) for item in FILES.items()])

    def sibling(name: str, content: bytes) -> Any:
        lfs = SimpleNamespace(sha256=sha256(content).hexdigest()) if len(content) > 99 else None
        return SimpleNamespace(rfilename=name, size=len(content), lfs=lfs)

    def snapshot(repository: str, revision: str, allow_patterns: list[str], local_dir: str) -> None:
        asked["fetched"], asked["from"] = allow_patterns, (repository, revision)
        for name in allow_patterns:
            path = Path(local_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(asked["files"][name])

    module = SimpleNamespace(HfApi=Api, snapshot_download=snapshot)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_download_fetches_what_is_needed_and_remembers_the_commit(
    tmp_path: Path, hub: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", str(tmp_path), "--dry-run"]) == 0
    assert "fetched" not in hub
    assert main(["download", str(tmp_path), "--part", "transformer"]) == 0
    assert sorted(hub["fetched"]) == ["hallo3/1/mp_rank_00_model_states.pt", "hallo3/latest"]
    assert hub["revision"] == "main"
    assert "python -m hallo3 convert" in capsys.readouterr().out
    assert main(["download", str(tmp_path)]) == 0
    assert hub["revision"] == "c0ffee" * 6
    noted = json.loads((tmp_path / "hallo3-download.json").read_text())
    assert set(noted["files"]) == set(FILES) - {"README.md"}


def test_a_download_that_is_not_what_was_published_is_told(
    tmp_path: Path, hub: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "hallo3/1/mp_rank_00_model_states.pt"
    for wrong, word in ((b"WEIGHTS" * 100, "SHA-256"), (b"weights", "7 bytes")):
        hub["files"][name] = wrong
        assert main(["download", str(tmp_path)]) == 2
        assert word in capsys.readouterr().err


def test_no_connection_is_told(
    tmp_path: Path, hub: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("name resolution failed")  # as httpx's, which are no OSErrors

    for called in ("snapshot_download", "HfApi"):
        monkeypatch.setattr(sys.modules["huggingface_hub"], called, fails)
        assert main(["download", str(tmp_path)]) == 1
        assert "resumes where it stopped" in capsys.readouterr().err
    del hub


def test_the_real_library_has_what_is_called() -> None:
    import inspect

    import huggingface_hub

    assert issubclass(huggingface_hub.errors.HfHubHTTPError, OSError)
    wanted = {"revision", "allow_patterns", "local_dir"}
    assert wanted <= set(inspect.signature(huggingface_hub.snapshot_download).parameters)
    assert "files_metadata" in inspect.signature(huggingface_hub.HfApi.model_info).parameters
