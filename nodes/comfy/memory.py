"""A second try in ComfyUI: all models are unloaded, and a share of the device stays free."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm

from ...hallo3.errors import describe_error
from ...hallo3.residency import SHARES
from ...hallo3.units import format_bytes
from .progress import OutOfMemory, show_warning


def spare_bytes(device: Any, share: float) -> int:
    """What stays free of a device of which a ``share`` is used."""
    return round((1 - share) * int(mm.get_total_memory(device))) if share < 1 else 0


class SecondTry:
    """After memory ran out in a stage of a node, the stage is tried at most twice more, each time with a
    smaller ``share`` of the device."""

    def __init__(self, device: Any) -> None:
        self._device, self._shares, self.share = device, [*SHARES], 1.0

    def describe(self) -> str:
        return f"ComfyUI's, with {100 * self.share:g} % of the device"

    def shrink(self, error: Exception, stage: str) -> bool:
        """Says what was wanted, and what is done."""
        if not self._shares:
            return False
        self.share = self._shares.pop(0)
        mm.is_oom(error)  # clears CUDA's error
        mm.unload_all_models()
        mm.soft_empty_cache()
        free, total = int(mm.get_free_memory(self._device)), int(mm.get_total_memory(self._device))
        found = error.found if isinstance(error, OutOfMemory) else describe_error(error)
        show_warning(
            f"out of memory in the stage {stage}: {found} All models were unloaded: {format_bytes(free)} of "
            f"{format_bytes(total)} are free. Again, with {100 * self.share:g} % of that: "
            f"{format_bytes(spare_bytes(self._device, self.share))} stay free."
        )
        return True
