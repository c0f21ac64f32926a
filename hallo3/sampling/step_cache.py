"""Step cache, an approximation: some steps extrapolate earlier estimates instead of running the network.

A skipped step takes the line through the last two computed estimates, over the step index
(``benchmarks/mixtures.py`` compares it with keeping the estimate and keeping the velocity). Skipping while a
predicted change is small is from TeaCache and EasyCache (arXiv 2411.19108, 2507.02860); here the prediction
is the line's own error at the last computed step, and it is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .samplers import Denoise
from .schedule import Step

MIN_COMPUTED_STEPS = 3
"""The first steps are always computed: only the third shows the error of a line through two."""
CHECK_INTERVAL = 4
"""Of this many steps that could be skipped, one is computed to check."""


class Estimate(NamedTuple):
    step: Step
    noisy: Tensor
    denoised: Tensor


Reuse = Callable[[Estimate, Estimate, Tensor, Step], Tensor]
"""(last computed estimate, the one before, noisy latents, their step) -> estimate."""


def extrapolate(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """Extrapolate the line through two estimates to ``step``."""
    del noisy
    ahead = (step.index - last.step.index) / (last.step.index - before.step.index)
    return last.denoised + ahead * (last.denoised - before.denoised)


@dataclass(frozen=True, slots=True)
class CacheReport:
    """In one or more segments, ``reused`` of ``steps`` were skipped; ``checks`` were computed to check, with
    a relative error of at most ``worst``; in ``off`` segments that was above the bound and switched the cache
    off."""

    steps: int = 0
    reused: int = 0
    checks: int = 0
    worst: float = 0.0
    off: int = 0

    def __add__(self, other: CacheReport) -> CacheReport:
        steps, reused, checks = (
            self.steps + other.steps,
            self.reused + other.reused,
            self.checks + other.checks,
        )
        return CacheReport(steps, reused, checks, max(self.worst, other.worst), self.off + other.off)

    def text(self) -> str:
        text = f"step cache: {self.reused} of {self.steps} steps were not computed"
        if self.checks:
            text += f"; {self.checks} were computed to check, the worst was {self.worst:.1%} off"
        if self.off:
            text += f"; switched off in {self.off} segment{'s' * (self.off > 1)}, where that was too much"
        return text


class StepCache:
    """A denoiser that computes only some of one segment's ``steps``.

    A step is skipped while its predicted relative error (L2) is below ``threshold``: the error of the line at
    the last computed step, per step since. The first steps, the last one and ``at_least`` are always
    computed. One of every ``CHECK_INTERVAL`` is computed to check; if it is off by more than ``bound``, all
    later steps are computed. Every computed step reads one value from the device.
    """

    def __init__(
        self,
        denoise: Denoise,
        steps: int,
        threshold: float,
        bound: float,
        *,
        at_least: Collection[int] = (),
        reuse: Reuse = extrapolate,
    ) -> None:
        self._denoise, self._reuse = denoise, reuse
        self._threshold, self._bound = threshold, bound
        self._always = {*range(MIN_COMPUTED_STEPS), steps - 1, *at_least}
        self._last_two: tuple[Estimate, ...] = ()
        self._error_per_step = math.inf
        self._candidates = 0
        self.report = CacheReport()

    def __call__(self, noisy: Tensor, step: Step) -> Tensor:
        self.report += CacheReport(steps=1)
        if self.report.off:
            return self._denoise(noisy, step)
        if step.index in self._always or len(self._last_two) < 2:
            return self._compute(noisy, step)[0]
        if not self._error_per_step * (step.index - self._last_two[-1].step.index) < self._threshold:
            return self._compute(noisy, step)[0]
        self._candidates += 1
        if self._candidates % CHECK_INTERVAL:
            self.report += CacheReport(reused=1)
            before, last = self._last_two
            return self._reuse(last, before, noisy, step)
        denoised, error = self._compute(noisy, step)
        self.report += CacheReport(checks=1, worst=error, off=int(not error <= self._bound))
        return denoised

    def _compute(self, noisy: Tensor, step: Step) -> tuple[Tensor, float]:
        """The network's estimate, and the relative error of the line's."""
        computed, error = Estimate(step, noisy, self._denoise(noisy, step)), math.inf
        if len(self._last_two) == 2:
            before, last = self._last_two
            reused = self._reuse(last, before, noisy, step)
            energy, missed = (x.square().sum() for x in (computed.denoised, reused - computed.denoised))
            error = float((missed / energy).sqrt())
            self._error_per_step = error / (step.index - last.step.index)
        self._last_two = (*self._last_two[-1:], computed)
        return computed.denoised, error
