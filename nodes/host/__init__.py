"""What ComfyUI lends us. Only this folder reaches into ComfyUI's internals; the nodes use its public API.

The internals carry no promise of stability: ``OLDEST`` to ``TRIED`` is what was run.
"""

from __future__ import annotations

OLDEST = (0, 33, 0)
TRIED = "0.33.0"


def check_version() -> None:
    """Refuse a ComfyUI that lacks what we lean on. Raises ``ImportError`` with what to do."""
    try:
        from comfyui_version import __version__
    except ImportError:
        __version__ = "an unknown version"
    numbers = tuple(int(part) for part in __version__.split(".")[:3] if part.isdigit())
    if len(numbers) == 3 and numbers < OLDEST:
        raise ImportError(
            f"ComfyUI-Hallo3 needs ComfyUI {'.'.join(map(str, OLDEST))} or newer; this is {__version__}. "
            "Update ComfyUI and restart it."
        )
    try:
        import comfy.ldm.cogvideo.vae
        import comfy.patcher_extension
        from comfy.model_base import BaseModel, ModelType
        from comfy.model_patcher import CoreModelPatcher
        from comfy_api.latest import ComfyExtension, InputImpl, io, ui
    except ImportError as error:
        raise ImportError(
            f"ComfyUI-Hallo3 was made with ComfyUI {TRIED} and cannot use {__version__}: {error}. "
            "Update ComfyUI-Hallo3, or ComfyUI if it is older."
        ) from error
    del comfy, BaseModel, ModelType, CoreModelPatcher, ComfyExtension, InputImpl, io, ui
