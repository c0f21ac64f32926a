"""The pack as ComfyUI and its registry see it: nodes, imports, archive, version check."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from comfyui.contract import CONTRACT, contract_of
from comfyui.host import REPOSITORY, Host, comfy, find_comfyui

IMPORT = """
import asyncio, sys
sys.path[:0] = [{comfyui!r}, {tests!r}]
from comfyui.torchvision_stubs import lend_operators
lend_operators()
sys.argv = ["main.py", "--cpu", "--base-directory", {base!r}]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server, latent_preview, comfy.samplers, comfy.audio_encoders.audio_encoders, comfy_api.latest
import folder_paths, torch
blocked = {blocked!r}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
folders = {{name: list(paths[0]) for name, paths in folder_paths.folder_names_and_paths.items()}}
state = torch.random.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), list(sys.path)
from comfyui.host import load_pack
pack = load_pack()
extension = asyncio.run(pack.comfy_entrypoint())
found = asyncio.run(extension.get_node_list())
schemas = [node.GET_SCHEMA().node_id for node in found]
assert {{name: list(paths[0]) for name, paths in folder_paths.folder_names_and_paths.items()}} == folders
assert torch.equal(torch.random.get_rng_state(), state[0])
assert (torch.get_default_dtype(), torch.get_num_threads(), list(sys.path)) == state[1:]
print(len(schemas))
"""
OPTIONAL = ("diffusers", "librosa", "onnxruntime", "insightface", "mediapipe", "cv2", "gguf", "c2pa")


def test_the_pack_imports_without_any_optional_library(tmp_path: Path) -> None:
    """And changes no global state of ComfyUI or torch."""
    code = IMPORT.format(
        comfyui=str(find_comfyui()), tests=str(REPOSITORY / "tests"), base=str(tmp_path), blocked=OPTIONAL
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "17"


def test_an_old_comfyui_is_refused(monkeypatch: pytest.MonkeyPatch, host: object) -> None:
    del host
    import comfyui_version

    from comfyui.host import load_pack

    monkeypatch.setattr(comfyui_version, "__version__", "0.3.64")
    pack = load_pack()
    with pytest.raises(ImportError, match=r"needs ComfyUI 0\.33\.0 or newer; this is 0\.3\.64"):
        __import__("asyncio").run(pack.comfy_entrypoint())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone, for commands that leave files behind."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(clone)], check=True)
    return clone


def test_the_registry_accepts_the_pack(checkout: Path) -> None:
    output = comfy(checkout, "node", "validate")
    assert "passed" in output
    assert "arning" not in output


def test_the_archive_holds_what_is_needed_and_nothing_else(checkout: Path) -> None:
    comfy(checkout, "node", "pack")
    with zipfile.ZipFile(checkout / "node.zip") as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "__init__.py", "hallo3", "nodes", "samples", "workflows", "web", "locales", "subgraphs",
        "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "requirements.txt",
    }  # fmt: skip
    unpacked = checkout.parent / "unpacked"
    shutil.unpack_archive(checkout / "node.zip", unpacked)
    assert json.loads((unpacked / "nodes" / "comfy" / "preview_factors.json").read_text(encoding="utf-8"))


def test_nothing_of_the_borrowed_base_class_is_used(host: Host) -> None:
    """The MODEL derives from QwenImage for its LoRA names only (docs/decisions/004)."""
    import comfy.model_base

    ours = host.module("nodes.comfy.model").Hallo3Model
    theirs = {
        name for name in vars(comfy.model_base.QwenImage) if not name.startswith("__") or name == "__init__"
    }
    assert theirs <= set(vars(ours))


def test_the_nodes_are_as_they_were(host: Host) -> None:
    """Inputs are only ever appended; what changes here breaks somebody's workflow."""
    assert contract_of(host) == json.loads(CONTRACT.read_text(encoding="utf-8"))


def test_every_node_explains_itself(host: Host) -> None:
    for node in host.module("nodes.extension").NODES:
        schema = node.GET_SCHEMA()
        assert schema.node_id.startswith("Hallo3")
        assert schema.display_name
        assert schema.category.startswith("Hallo3")
        assert schema.search_aliases
        assert len(schema.description) > 40
        for each in (*schema.inputs, *schema.outputs):
            assert each.tooltip, f"{schema.node_id}: {each.id}"
            assert each.tooltip.endswith("."), f"{schema.node_id}: {each.id}"
