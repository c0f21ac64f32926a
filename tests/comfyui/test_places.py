"""The face analyzer's and the separator's files are found where ``extra_model_paths.yaml`` says."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from comfyui.host import Host

DETECTOR, SEPARATOR = "scrfd_10g_bnkps.onnx", "Kim_Vocal_2.onnx"


@pytest.fixture
def places(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with a models folder of its own and the folders of ``extra`` in the file."""
    import folder_paths

    module = host.module("nodes.comfy.places")
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    registered = deepcopy(folder_paths.folder_names_and_paths)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    return module


def configure(tmp_path: Path, lines: str) -> None:
    from utils.extra_config import load_extra_path_config

    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(f"shared:\n  base_path: {tmp_path}/shared\n  {lines}\n", encoding="utf-8")
    load_extra_path_config(str(path))


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ("insightface: faces", "faces/models/antelopev2"),
        ("insightface: faces", "faces/antelopev2"),
        ("insightface: faces", "faces"),
        ("face_analysis: other", "other/models"),
        ("vae: all/vae", "all/insightface/models/antelopev2"),
    ],
)
def test_the_face_analyzer_is_found(places: Any, host: Host, tmp_path: Path, lines: str, place: str) -> None:
    assert places.find_faces() is None
    put(tmp_path / "models" / "insightface" / "models" / "antelopev2" / "read me.txt")
    configure(tmp_path, lines)
    assert places.find_faces() == tmp_path / "models" / "insightface" / "models" / "antelopev2"
    put(tmp_path / "shared" / place / DETECTOR)
    found = host.module("hallo3.face.photo").find_face_file(places.find_faces(), DETECTOR)
    assert found.samefile(tmp_path / "shared" / place / DETECTOR)


@pytest.mark.parametrize(
    ("lines", "place"),
    [("audio_separator: a", "a"), ("audio: b", "b/MDX"), ("diffusion_models: c/unet", "c/vocal_separator")],
)
def test_the_separator_is_found(places: Any, tmp_path: Path, lines: str, place: str) -> None:
    missing = places.find_vocals()
    assert missing == tmp_path / "models" / "audio_separator" / SEPARATOR
    configure(tmp_path, lines)
    there = put(tmp_path / "shared" / place / SEPARATOR)
    assert places.find_vocals() == there
    assert places.find_vocals() != put(missing), "the models folder comes first"


def test_doctor_looks_there_too(places: Any, host: Host, tmp_path: Path) -> None:
    assert places
    configure(tmp_path, "insightface: faces\n  audio_separator: a")
    files = [tmp_path / "shared" / path for path in ("a/" + SEPARATOR, "faces/" + DETECTOR)]
    for path in (*files, tmp_path / "shared" / "faces" / "glintr100.onnx"):
        put(path)
    text = host.node("Hallo3Doctor").execute().result[0]
    assert text.count("an empty file") == 2
    assert [path for path in files if f"{path}, 0 " not in text] == [], text
