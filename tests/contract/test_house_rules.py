"""The rules of CONTRIBUTING.md, read from the source without importing it; each test lists all offenders."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from support.own_process import Missing, run_alone

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, NODES = ROOT / "hallo3", ROOT / "nodes"
SHIPPED = [ROOT / "__init__.py", *sorted(PACKAGE.rglob("*.py")), *sorted(NODES.rglob("*.py"))]
MAX_LINES = 450

LEVELS = (
    {"errors", "messages", "progress", "units", "version", "built_in"},
    {"geometry", "noise", "residency", "sampling", "storage"},
    {"client", "config", "media", "onnx_model", "speakers"},
    {"segments", "model", "vae", "text_encoder", "face"},
    {"attention_backend", "quantization", "settings", "identity", "script", "speech"},
    {"checkpoints", "models"},
    {"identity_file", "offload", "pipeline"},
    {"callables", "loading", "jobs", "doctor"},
    {"speed", "fleet"},
    {"server"},
    {"cli"},
    {"__main__"},
)
"""Rooms of the package from the bottom up: each may import from the levels below it, and from itself."""
LIBRARIES = {
    "attention_backend": {"diffusers"},
    "checkpoints": {"gguf", "safetensors"},
    "cli": {"gradio", "huggingface_hub", "tqdm", "uvicorn", "yaml"},
    "face": {"mediapipe", "safetensors"},
    "fleet": {"fsspec", "ray"},
    "media": {"PIL", "av", "c2pa", "cryptography", "soxr"},
    "model": {"einops", "triton"},
    "offload": {"psutil"},
    "onnx_model": {"onnxruntime"},
    "script": {"pysubs2"},
    "server": {"anyio", "fastapi", "pydantic", "python_multipart", "starlette"},
    "storage": {"filelock"},
    "text_encoder": {"sentencepiece", "tokenizers"},
}
"""Libraries that a room uses, beside torch and numpy, and no other room."""
COMFYUI = {"comfy", "comfy_execution", "comfyui_version", "latent_preview", "server"}
"""ComfyUI's own modules, which make no promise: for nodes/comfy only."""
COMFYUI_API = {"comfy_api", "folder_paths"}
FORBIDDEN = (
    r"(?<![.\w])(eval|exec)\(|os\.system|\bsubprocess\b|pickle\.load|weights_only *= *False|except *:"
    r"|trust_remote_code *= *True|strict *= *False\)|torchaudio|torch\.manual_seed|random\.seed"
)
HOMES = {
    r"^\s*(from|import) argparse\b": "hallo3/cli/",
    r"\bimport .*\bsha256\b|hashlib\.sha256": "hallo3/storage/hashing.py",
    r"\.\d?f\} ?[kMGT]i?B\b": "hallo3/units.py",
    r'fix="choose one of these"': "hallo3/errors.py",
    r"\brenderer\.sample\(": "hallo3/pipeline.py",
}
"""A use of what has one home, and that home: a file, or a folder that ends in a slash."""


def imports(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(level, module, names) of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def targets(path: Path) -> set[Path]:
    """Files of the repository that a file imports."""
    found: set[Path] = set()
    for level, module, names in imports(path):
        if not level:
            continue
        base = path.parents[level - 1].joinpath(*module.split(".")) if module else path.parents[level - 1]
        for name in names:
            places = (base / f"{name}.py", base / name / "__init__.py", base.with_suffix(".py"))
            found |= {next((place for place in places if place.is_file()), base / "__init__.py")}
    return found - {path}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level_of(name: str) -> int:
    return next((n for n, rooms in enumerate(LEVELS) if name in rooms), -1)


def libraries(path: Path) -> set[str]:
    return {module.split(".")[0] for level, module, _ in imports(path) if not level}


def test_imports_go_down_only() -> None:
    wrong: list[str] = []
    for path in SHIPPED[1:]:
        name = path.relative_to(ROOT)
        if NODES in path.parents:
            inside = path.parent.name == "comfy"
            allowed = set(sys.stdlib_module_names) | {"torch"} | COMFYUI_API | (COMFYUI if inside else set())
            wrong += [f"{name}: {library}" for library in libraries(path) - allowed]
            if inside:
                wrong += [f"{name}: {each.stem}" for each in targets(path) if each.parent == NODES]
            continue
        mine, known = room(path), set(sys.stdlib_module_names) | {"torch", "numpy"}
        wrong += [f"{name}: {library}" for library in libraries(path) - known - LIBRARIES.get(mine, set())]
        if mine == "__init__":
            continue
        for theirs in {room(each) for each in targets(path) if PACKAGE in each.parents} - {mine, "__init__"}:
            if level_of(mine) == -1 or level_of(theirs) >= level_of(mine):
                wrong.append(f"{name} (level {level_of(mine)}): {theirs} (level {level_of(theirs)})")
    assert wrong == []


def test_no_file_imports_itself_in_a_circle() -> None:
    edges = {path: targets(path) for path in SHIPPED}
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        if path in above:
            names = [str(each.relative_to(ROOT)) for each in (*above[above.index(path) :], path)]
            raise AssertionError(" -> ".join(names))
        if path not in done:
            for each in sorted(edges.get(path, set())):
                visit(each, (*above, path))
            done.add(path)

    for path in SHIPPED:
        visit(path, ())


def test_what_is_shipped_is_short_and_safe_and_shared_helpers_have_one_home() -> None:
    wrong: list[str] = []
    calls = 0
    for path in SHIPPED:
        name, lines = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MAX_LINES:
            wrong.append(f"{name}: {len(lines)} lines")
        for number, line in enumerate(lines, 1):
            if re.search(FORBIDDEN, line) and "zip(" not in line:
                wrong.append(f"{name}:{number}: {line.strip()}")
            if re.search(r"\bprint\(", line) and path.parent.name != "cli":
                wrong.append(f"{name}:{number}: prints")
            uses = [home for pattern, home in HOMES.items() if re.search(pattern, line)]
            wrong += [f"{name}:{number}: belongs in {home}" for home in uses if not name.startswith(home)]
            calls += HOMES[r"\brenderer\.sample\("] in uses
    tree = ast.parse(SHIPPED[0].read_text(encoding="utf-8"))
    wrong += ["__init__.py: imports" for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert wrong == []
    assert calls == 1, "one render path"


def import_package() -> bool:
    optional = ("comfy", "diffusers", "transformers", "onnxruntime", "librosa", "av")
    sys.meta_path.insert(0, missing := Missing(*optional, "safetensors", "PIL"))
    import hallo3

    assert all((hallo3.Settings, hallo3.Hallo3Error))
    missing.names = optional
    return all(getattr(hallo3, name) for name in hallo3.__all__)


def test_the_package_imports_without_its_libraries() -> None:
    assert run_alone("contract.test_house_rules", "import_package()")


def test_requirements_and_packages_agree_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["dependencies"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == wanted[1:]
    assert wanted[0].startswith("torch>="), "ComfyUI brings it"
    assert not any(re.search("^torch|<|==", line) for line in wanted[1:])
    folders = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")}
    packages = {*(".".join(folder.parts) for folder in folders), "hallo3.samples"}
    assert set(project["tool"]["setuptools"]["packages"]) == packages
