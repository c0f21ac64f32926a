"""Where ComfyUI is, and ComfyUI inside this process."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from comfyui.torchvision_stubs import lend_operators

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = ("aiohttp", "alembic", "comfy_kitchen", "comfyui_frontend_package")
NEEDED += ("torchaudio", "torchsde", "torchvision")


def find_comfyui() -> Path | None:
    """The folder of a ComfyUI: ``COMFYUI_PATH``, what ``comfy which`` says, or comfy-cli's default."""
    words = _run_comfy("which").stdout.split() if _comfy_command() else []
    places = [os.environ.get("COMFYUI_PATH"), *reversed(words), str(Path.home() / "comfy" / "ComfyUI")]
    folders = [Path(place) for place in places if place]
    return next((folder for folder in folders if (folder / "main.py").is_file()), None)


def _comfy_command() -> str | None:
    beside = shutil.which("comfy", path=str(Path(sys.executable).parent))
    return beside or shutil.which("comfy")


def _run_comfy(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [_comfy_command() or "", "--skip-prompt", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)


def comfy(folder: Path, *words: str) -> str:
    """Output of comfy-cli in a folder, with a home of its own. Fails the test if it is missing or fails."""
    assert _comfy_command() is not None, "comfy-cli is not installed"
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1"}
    done = _run_comfy(*words, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def absent() -> str | None:
    """Why ComfyUI cannot be tried here; None when it can."""
    if find_comfyui() is None:
        return "no ComfyUI at COMFYUI_PATH, `comfy which` or ~/comfy/ComfyUI"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"this Python lacks ComfyUI's own requirements ({', '.join(missing)}); try `make test-comfyui`"
    return None


def prepare_comfyui(base: Path) -> None:
    """Let it be imported here, on the CPU."""
    lend_operators()
    sys.path.insert(0, str(find_comfyui()))
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(base)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = arguments


class Host:
    """ComfyUI imported here, and the pack as ComfyUI loads it."""

    def __init__(self, base: Path) -> None:
        prepare_comfyui(base)
        for name in ("input", "output", "temp", "custom_nodes"):
            (base / name).mkdir(parents=True, exist_ok=True)
        self.base = base
        self.pack = load_pack()
        self.module("hallo3.storage.files").home = lambda: base

    def module(self, name: str) -> Any:
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def node(self, name: str) -> Any:
        """A node class by its id, or one of ComfyUI's own."""
        nodes = self.module("nodes.extension").NODES
        return next(node for node in nodes if node.GET_SCHEMA().node_id == name)


def load_pack() -> ModuleType:
    """The pack under a name that nothing else has, from its file, as ComfyUI does."""
    name = "comfyui_hallo3_pack"
    path, inside = REPOSITORY / "__init__.py", [str(REPOSITORY)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
