"""Install ComfyUI with comfy-cli, put this pack into it and start it: ``make comfyui``.

A ComfyUI at COMFYUI_PATH is used; else one is installed in build/ComfyUI, from the internet. Words behind the
name go to ComfyUI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
NAME = "ComfyUI-Hallo3"


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)


def find_accelerator() -> str:
    """comfy-cli's word for what is here."""
    if sys.platform == "darwin":
        return "--m-series"
    return "--nvidia" if shutil.which("nvidia-smi") else "--cpu"


def link_pack(comfyui: Path) -> None:
    """A link among the custom nodes; on Windows, which wants rights for links, a junction."""
    target = comfyui / "custom_nodes" / NAME
    if target.exists():
        return
    if sys.platform == "win32":
        run("cmd", "/c", "mklink", "/J", target, PACK)
    else:
        target.symlink_to(PACK, target_is_directory=True)


def main() -> None:
    given = os.environ.get("COMFYUI_PATH")
    comfyui = Path(given) if given else PACK / "build" / "ComfyUI"
    comfy = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--workspace", comfyui]
    if not (comfyui / "main.py").is_file():
        if given:
            raise SystemExit(f"There is no ComfyUI at COMFYUI_PATH ({given}).")
        run(*comfy, "install", find_accelerator())
    link_pack(comfyui)
    for folder in (comfyui, PACK):
        run(sys.executable, "-m", "pip", "install", "--quiet", "-r", folder / "requirements.txt")
    run(*comfy, "launch", "--", *sys.argv[1:])


if __name__ == "__main__":
    try:
        main()
    except (subprocess.CalledProcessError, KeyboardInterrupt) as error:
        raise SystemExit(1) from error
