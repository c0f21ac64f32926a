"""What we use of ComfyUI. Only this folder reaches into ComfyUI's internals; the nodes use its public API.

The internals carry no promise of stability: ``OLDEST_VERSION`` to ``NEWEST_TESTED`` is what was run.
"""

from __future__ import annotations

from importlib import import_module

OLDEST_VERSION = (0, 33, 0)
NEWEST_TESTED = "0.33.0"
REQUIRED_NAMES = {
    "comfy.ldm.cogvideo.vae": ("AutoencoderKLCogVideoX",),
    "comfy.patcher_extension": ("WrapperExecutor", "WrappersMP", "get_all_wrappers"),
    "comfy.model_base": ("BaseModel", "ModelType", "QwenImage"),
    "comfy.model_patcher": ("CoreModelPatcher",),
    "comfy.utils": ("convert_old_quants", "detect_layer_quantization"),
    "comfy_api.latest": ("ComfyExtension", "InputImpl", "Types", "io", "ui"),
    "comfy_execution.utils": ("get_executing_context",),
}


def check_version() -> None:
    """Raise ``ImportError`` with advice for a ComfyUI that lacks what we use."""
    try:
        version: str = import_module("comfyui_version").__version__
    except ImportError:
        version = "an unknown version"
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if len(numbers) == 3 and numbers < OLDEST_VERSION:
        raise ImportError(
            f"ComfyUI-Hallo3 needs ComfyUI {'.'.join(map(str, OLDEST_VERSION))} or newer; this is {version}. "
            "Update ComfyUI and restart it."
        )
    missing: list[str] = []
    for module, names in REQUIRED_NAMES.items():
        try:
            imported = import_module(module)
        except ImportError:
            imported = None
        missing += [f"{module}.{name}" for name in names if not hasattr(imported, name)]
    if missing:
        raise ImportError(
            f"ComfyUI-Hallo3 was tested with ComfyUI {NEWEST_TESTED} and does not work with {version}, which "
            f"lacks {', '.join(missing)}. Update ComfyUI-Hallo3, or ComfyUI if it is older."
        )
