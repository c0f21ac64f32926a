"""Start ComfyUI beside a CPU build of torch, where torchvision and torchaudio are CUDA builds.

Their compiled parts cannot be loaded there, and ComfyUI imports both. What they declare on import is
declared here instead; nothing of it is ever called. With matching builds this changes nothing.

    python torchvision_stubs.py FOLDER/main.py --cpu ...
"""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

import torch

DECLARED: list[torch.library.Library] = []


def lend_operators() -> None:
    """Let ``import torchvision`` and ``import torchaudio`` succeed without their compiled parts."""
    if torch.version.cuda is not None:
        return
    if importlib.util.find_spec("torchvision") is not None and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)
    absent = ModuleType("torchaudio._extension")
    vars(absent).update(dict.fromkeys(("_IS_TORCHAUDIO_EXT_AVAILABLE", "_IS_ALIGN_AVAILABLE"), False))
    vars(absent)["fail_if_no_align"] = lambda function: function
    sys.modules.setdefault("torchaudio._extension", absent)


if __name__ == "__main__":
    lend_operators()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
