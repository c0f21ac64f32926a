"""The pack as ComfyUI, its registry and comfy-cli see it: nodes, imports, archive, version, templates."""

import asyncio
import json
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from comfyui.contract import CONTRACT, contract_of
from comfyui.host import REPOSITORY, Host, comfy, load_pack, prepare_comfyui
from comfyui.server import PACK, Server
from comfyui.templates import WORKFLOWS, api_form, bring_files, needs_weights, with_files
from support.own_process import Missing, run_alone

OPTIONAL = ("diffusers", "librosa", "onnxruntime", "insightface", "mediapipe", "cv2", "gguf", "c2pa")


def global_state() -> Any:
    import folder_paths
    import torch

    folders = {name: list(paths[0]) for name, paths in folder_paths.folder_names_and_paths.items()}
    settings = torch.get_default_dtype(), torch.get_num_threads(), list(sys.path)
    return folders, settings, torch.random.get_rng_state().tolist()


def count_nodes(base: str) -> int:
    """In a ComfyUI of its own; nothing else is changed."""
    prepare_comfyui(Path(base))
    for name in ("nodes", "server", "latent_preview", "comfy.samplers", "comfy_api.latest"):
        import_module(name)
    import_module("comfy.audio_encoders.audio_encoders")
    sys.meta_path.insert(0, Missing(*OPTIONAL))
    before = global_state()
    found = asyncio.run(asyncio.run(load_pack().comfy_entrypoint()).get_node_list())
    assert all(node.GET_SCHEMA().node_id for node in found)
    assert global_state() == before
    return len(found)


def test_the_pack_imports_without_any_optional_library(tmp_path: Path) -> None:
    assert run_alone("comfyui.test_pack", f"count_nodes({str(tmp_path)!r})") == 21


@pytest.mark.usefixtures("host")
def test_an_old_comfyui_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfyui_version

    monkeypatch.setattr(comfyui_version, "__version__", "0.3.64")
    with pytest.raises(ImportError, match=r"needs ComfyUI 0\.33\.0 or newer; this is 0\.3\.64"):
        asyncio.run(load_pack().comfy_entrypoint())


@pytest.mark.usefixtures("host")
def test_a_library_that_exits_when_it_is_imported_does_not_end_comfyui(monkeypatch: Any) -> None:
    def find_spec(name: str, *_: Any) -> None:
        if name.endswith("nodes.extension"):
            raise SystemExit

    pack = load_pack()
    monkeypatch.delitem(sys.modules, f"{pack.__name__}.nodes.extension", raising=False)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_spec), *sys.meta_path])
    with pytest.raises(ImportError, match="wanted to end ComfyUI"):
        asyncio.run(pack.comfy_entrypoint())


def test_the_registry_accepts_the_pack_and_packs_what_is_needed(tmp_path: Path) -> None:
    clone = tmp_path / "clone"  # the commands leave files behind
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(clone)], check=True)
    output = comfy(clone, "node", "validate")
    assert ("passed" in output, "arning" in output) == (True, False)
    comfy(clone, "node", "pack")
    shutil.unpack_archive(clone / "node.zip", tmp_path / "unpacked")
    assert {path.name for path in (tmp_path / "unpacked").iterdir()} == {
        "__init__.py", "hallo3", "nodes", "samples", "workflows", "web", "locales", "subgraphs",
        "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "pyproject.toml",
        "requirements.txt",
    }  # fmt: skip
    factors = tmp_path / "unpacked" / "nodes" / "comfy" / "preview_factors.json"
    assert json.loads(factors.read_text(encoding="utf-8"))


def test_nothing_of_the_borrowed_base_class_is_used(host: Host) -> None:
    """The MODEL derives from QwenImage for its LoRA names only (docs/decisions/004)."""
    import comfy.model_base

    ours = host.module("nodes.comfy.model").Hallo3Model
    theirs = vars(comfy.model_base.QwenImage)
    assert {name for name in theirs if not name.startswith("__") or name == "__init__"} <= set(vars(ours))


def test_the_nodes_are_as_they_were_and_explain_themselves(host: Host) -> None:
    """Inputs are only ever appended; what changes here breaks somebody's workflow."""
    assert contract_of(host) == json.loads(CONTRACT.read_text(encoding="utf-8"))
    for node in host.module("nodes.extension").NODES:
        schema = node.GET_SCHEMA()
        assert all(name.startswith("Hallo3") for name in (schema.node_id, schema.category))
        assert all((schema.display_name, schema.search_aliases, len(schema.description) > 40))
        for each in (*schema.inputs, *schema.outputs):
            assert (each.tooltip or "").endswith("."), f"{schema.node_id}: {each.id}"


def fetched(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(server.url + urllib.parse.quote(path), timeout=60) as answer:
        return answer.read()


def test_comfyui_serves_templates_the_blueprint_help_pages_texts_and_thumbnails(server: Server) -> None:
    """At the addresses where its page looks for them."""
    assert set(server.get("/workflow_templates")[PACK]) == {path.stem for path in WORKFLOWS}
    assert len(WORKFLOWS) >= 9
    blueprints = {path.stem for path in (REPOSITORY / "subgraphs").glob("*.json")}
    assert blueprints < {each["name"] for each in server.get("/global_subgraphs").values()}
    for node in json.loads(CONTRACT.read_text(encoding="utf-8")):
        for page in (f"{node}.md", f"{node}/en.md", f"{node}/zh.md"):
            found = fetched(server, f"/extensions/{PACK}/docs/{page}")
            assert found == (REPOSITORY / "web" / "docs" / page).read_bytes()
    texts = server.get("/i18n")
    assert texts["zh"]["nodeDefs"]["Hallo3Extrapolate"]["display_name"] == "Hallo3 说话视频"
    assert texts["en"]["nodeDefs"]["Hallo3Extrapolate"]["display_name"] == "Hallo3 Talking Video"
    for path in WORKFLOWS:
        assert fetched(server, f"/api/workflow_templates/{PACK}/{path.stem}.jpg")[:2] == b"\xff\xd8"


@pytest.fixture
def users_files(server: Server) -> Iterator[None]:
    with bring_files(server.base):
        yield


@pytest.mark.usefixtures("users_files")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_template_runs_to_a_video_with_sound(server: Server, tmp_path: Path, path: Path) -> None:
    """By the HTTP API, and both of its forms by comfy-cli, whose validator accepts them. Without the files of
    ComfyUI's own loaders it is validated only."""
    api, graph, info = (tmp_path / f"{name}.json" for name in ("api", "graph", "info"))
    for file, data in ((api, api_form(path)), (graph, with_files(path)), (info, server.get("/object_info"))):
        file.write_text(json.dumps(data), encoding="utf-8")
    for form in (api, graph):
        comfy(tmp_path, "workflow", "validate", "--workflow", str(form), "--input", str(info))
    if needs_weights(path):
        return
    result = server.run(api_form(path))
    assert result["status"]["status_str"] == "success", json.dumps(result["status"], indent=1)
    saved = [entry for out in result["outputs"].values() for entry in out.get("images", [])]
    videos = [entry for entry in saved if ".mp4" in entry["filename"]]
    assert videos
    for video in videos:
        with av.open(str(server.base / video["type"] / video["subfolder"] / video["filename"])) as container:
            assert container.streams.video[0].frames > 30
            assert float(container.streams.video[0].average_rate) == 25.0
            assert container.streams.video[0].height >= 6 * 64  # the built-in model's own are small
            assert container.streams.audio
    host, port = server.url.removeprefix("http://").split(":")
    for form in (api, graph):
        output = comfy(tmp_path, "run", "--workflow", str(form), "--host", host, "--port", port, "--wait")
        assert ".mp4" in output
