"""Put ComfyUI's own requirements into this Python: what ``make test-comfyui`` does first.

torch stays as it is. Its companions are installed alone, because they would replace it; where torch is a
CPU build they are CUDA builds, which ``torchvision_stubs`` supports.
"""

import re
import subprocess
import sys
from importlib.metadata import version

from comfyui.host import find_comfyui

COMPANIONS = {"2.13": ("torchvision==0.28.*", "torchaudio==2.11.*")}
"""By torch's minor version; any other takes the newest."""
TOOLS = ("comfy-cli", "playwright")


def main() -> int:
    folder = find_comfyui()
    if folder is None:
        sys.stderr.write("There is no ComfyUI at COMFYUI_PATH, `comfy which` or ~/comfy/ComfyUI.\n")
        return 1
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line.strip() and not re.match(r"#|torch(vision|audio)?\s*$", line)]
    pip, torch = [sys.executable, "-m", "pip", "install", "--quiet"], version("torch")
    companions = COMPANIONS.get(".".join(torch.split(".")[:2]), ("torchvision", "torchaudio"))
    subprocess.run([*pip, "--no-deps", *companions], check=True)
    subprocess.run([*pip, *wanted, *TOOLS, f"torch=={torch}"], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
