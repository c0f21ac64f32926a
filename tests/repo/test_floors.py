"""The house rules, read from the source without importing it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hallo3"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NODES = ROOT / "nodes"
NODE_SOURCES = sorted(NODES.rglob("*.py"))
SHIPPED = [ROOT / "__init__.py", *SOURCES, *NODE_SOURCES]

GROUND = {"errors", "shapes", "config", "parts", "presets", "release", "segments", "built_in", "boxes"}
"""Floor 0: the standard library only."""
CELLAR = GROUND | {"kernels", "ops", "noise", "residency", "streaming", "storage", "tensorfile", "onnxfile"}
"""Floor 1: torch and numpy besides."""
ROOMS = {"audio", "face", "text", "vae", "model", "sampling", "weights", "media", "journal"}
"""Floor 2: each knows the floors below and itself, never its neighbours."""
LIBRARIES = {
    "transformers": {"audio", "text"},
    "diffusers": {"vae", "backends"},
    "safetensors": {"weights"},
    "av": {"media"},
    "PIL": {"media"},
    "librosa": {"media"},
    "soxr": {"media"},
    "einops": {"model"},
    "tqdm": {"cli"},
    "huggingface_hub": {"cli"},
    "gguf": {"tensorfile"},
    "onnxruntime": {"onnxfile"},
    "mediapipe": {"face"},
    "triton": {"kernels"},
}
"""Each library has its rooms."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def inner(path: Path) -> set[str]:
    """Rooms of the package that a file imports from."""
    found: set[str] = set()
    depth = len(path.relative_to(PACKAGE).parts)
    for level, module in imports(path):
        if level == depth:
            found.add(module.split(".")[0])
        elif level:
            found.add(room_of(path))
    return found - {""}


def outer(path: Path) -> set[str]:
    return {module.split(".")[0] for level, module in imports(path) if level == 0}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    room, standard = room_of(path), set(sys.stdlib_module_names)
    if room in GROUND:
        assert inner(path) <= GROUND
        assert outer(path) <= standard
    elif room in CELLAR:
        assert inner(path) <= CELLAR
        assert outer(path) <= standard | {"torch", "numpy"} | LIBRARIES.keys()
    elif room in ROOMS:
        assert inner(path) <= CELLAR | {room}
    elif room not in {"cli", "__main__"}:
        assert "cli" not in inner(path)
    assert not outer(path) & {"hallo3", "comfy", "comfy_api", "folder_paths", "nodes", "torchvision", "cv2"}
    for library, rooms in LIBRARIES.items():
        assert library not in outer(path) or room in rooms, f"{library} does not belong in {room}"


INTERNALS = {"comfy", "comfy_execution", "comfyui_version", "latent_preview", "server"}
"""ComfyUI without a promise: for nodes/host only."""
PUBLIC = {"comfy_api", "folder_paths"}


@pytest.mark.parametrize("path", NODE_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nodes_are_thin_and_their_host_knows_no_nodes(path: Path) -> None:
    """The package below imports nothing of ComfyUI; ``nodes/host`` lends it; a node connects the two."""
    allowed = set(sys.stdlib_module_names) | {"torch"}
    inside_host = path.parent.name == "host"
    assert outer(path) <= allowed | PUBLIC | (INTERNALS if inside_host else set())
    above = 3 if inside_host else 2
    for level, module in imports(path):
        assert level < above or module.split(".")[0] == "hallo3"
        if inside_host and level == 2:
            pytest.fail(f"{path.name} imports a node")


def test_the_entry_point_imports_nothing_at_module_level() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def test_files_can_be_read_in_one_sitting() -> None:
    paths = [*SHIPPED, *(ROOT / "tests").rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {str(path): length for path, length in lengths.items() if length > 250} == {}
    assert median(lengths.values()) <= 110


FORBIDDEN = (
    r"(?<![.\w])(eval|exec)\(|os\.system|\bsubprocess\b|pickle\.load|weights_only *= *False|except *:"
    r"|trust_remote_code *= *True|strict *= *False\)|torchaudio|torch\.manual_seed|random\.seed"
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_dangerous_is_shipped(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if re.search(FORBIDDEN, line) and "zip(" not in line]
    assert found == []
    assert path.parent.name == "cli" or not any(re.search(r"\bprint\(", line) for line in lines)


def test_public_things_say_what_they_are() -> None:
    silent: list[str] = []
    for path in SHIPPED:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef))]
        for node in nodes:
            name = getattr(node, "name", "module")
            if not name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{path.name}: {name}")
    assert silent == []


LAZY = """
import sys, time
import torch
blocked = ("comfy", "diffusers", "transformers", "onnxruntime", "librosa", "av", "safetensors", "PIL")
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
start = time.perf_counter()
import hallo3
assert time.perf_counter() - start < 0.5, time.perf_counter() - start
assert hallo3.Settings and hallo3.Hallo3Error
blocked = ("comfy", "diffusers", "transformers", "onnxruntime", "librosa", "av")
assert all(getattr(hallo3, name) for name in hallo3.__all__)
"""


def test_the_package_imports_alone_and_fast() -> None:
    subprocess.run([sys.executable, "-c", LAZY], check=True, cwd=ROOT, timeout=120)


def test_requirements_agree_with_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = re.search(r"\ndependencies = \[(.*?)\]", project, re.DOTALL)
    assert required is not None
    wanted = re.findall(r'"(.+?)"', required[1])
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == wanted
    assert not any(line.startswith("torch") or "<" in line or "==" in line for line in wanted)
