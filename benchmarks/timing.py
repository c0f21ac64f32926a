"""How long something takes on a device, and what it holds meanwhile."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from hallo3.errors import is_out_of_memory

Row = dict[str, Any]
"""What is said of one measurement; "failed" says why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Measures on a device: ``count`` times after ``warm`` times that do not count."""

    device: torch.device
    count: int = 5
    warm: int = 2

    @property
    def cuda(self) -> bool:
        """Whether there is memory of a device to be told, and work that must be waited for."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until all is done that was queued."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def measure(self, run: Callable[[], object], flop: float = 0.0) -> Row:
        """The median, least and most seconds of ``run``. With ``flop``, TFLOP/s too. On CUDA the most that
        was held at once (``peak_gb``), and how much of it was not there before (``at_work_gb``). If memory
        runs out, that is what is said."""
        try:
            row: Row = self._measured(run)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            row = {"failed": "out of memory"}
        self.tidy()
        if flop and "seconds" in row:
            row["tflops"] = flop / row["seconds"] / 1e12
        return row

    def tidy(self) -> None:
        """Give back what nobody uses."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def _measured(self, run: Callable[[], object]) -> Row:
        for _ in range(self.warm):
            run()
        self.wait()
        before = 0
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        times: list[float] = []
        for _ in range(self.count):
            start = time.perf_counter()
            made = run()
            self.wait()
            times.append(time.perf_counter() - start)
            del made
        row: Row = {"seconds": median(times), "least": min(times), "most": max(times), "count": self.count}
        if self.cuda:
            peak = torch.cuda.max_memory_allocated(self.device)
            row |= {"peak_gb": peak / 1e9, "at_work_gb": (peak - before) / 1e9}
        return row
