"""What ComfyUI lends us. Only this folder reaches into ComfyUI's internals; the nodes use its public API.

The internals carry no promise of stability: ``OLDEST`` to ``TRIED`` is what was run.
"""

from __future__ import annotations

from importlib import import_module

OLDEST = (0, 33, 0)
TRIED = "0.33.0"
LEANED_ON = {
    "comfy.ldm.cogvideo.vae": ("AutoencoderKLCogVideoX",),
    "comfy.patcher_extension": ("WrapperExecutor", "WrappersMP", "get_all_wrappers"),
    "comfy.model_base": ("BaseModel", "ModelType", "QwenImage"),
    "comfy.model_patcher": ("CoreModelPatcher",),
    "comfy.utils": ("convert_old_quants", "detect_layer_quantization"),
    "comfy_api.latest": ("ComfyExtension", "InputImpl", "Types", "io", "ui"),
    "comfy_execution.utils": ("get_executing_context",),
}
"""Names that ``check_version`` looks for."""


def check_version() -> None:
    """Refuse a ComfyUI that lacks what we lean on. Raises ``ImportError`` with what to do."""
    try:
        version: str = import_module("comfyui_version").__version__
    except ImportError:
        version = "an unknown version"
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if len(numbers) == 3 and numbers < OLDEST:
        raise ImportError(
            f"ComfyUI-Hallo3 needs ComfyUI {'.'.join(map(str, OLDEST))} or newer; this is {version}. "
            "Update ComfyUI and restart it."
        )
    missing = [f"{module}.{name}" for module, names in LEANED_ON.items() for name in _missing(module, names)]
    if missing:
        raise ImportError(
            f"ComfyUI-Hallo3 was made with ComfyUI {TRIED} and cannot use {version}: it has no "
            f"{', '.join(missing)}. Update ComfyUI-Hallo3, or ComfyUI if it is older."
        )


def _missing(module: str, names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        found = import_module(module)
    except ImportError:
        return names
    return tuple(name for name in names if not hasattr(found, name))
