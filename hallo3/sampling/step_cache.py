"""Step cache: some steps go on from earlier estimates instead of asking the network. An approximation.

What is reused is the straight line through the last two true estimates, over the number of steps
(``benchmarks/mixtures.py`` compares it with holding the estimate and holding the velocity). The idea of
skipping while a predicted change is small is TeaCache's and EasyCache's (arXiv 2411.19108, 2507.02860);
here the prediction is the error that the line itself made at the last true estimate, and it is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .samplers import Denoise
from .schedule import Step

FIRST = 3
"""Steps that are computed in any case: only the third can tell what a line through two is worth."""
CHECKED = 4
"""Of so many steps that could be reused, one is computed all the same."""


class Estimate(NamedTuple):
    """A true estimate: what was denoised at which step."""

    step: Step
    noisy: Tensor
    denoised: Tensor


Reuse = Callable[[Estimate, Estimate, Tensor, Step], Tensor]
"""(last true estimate, the one before, noisy latents, their step) -> an estimate without a network."""


def extrapolate(last: Estimate, before: Estimate, noisy: Tensor, step: Step) -> Tensor:
    """The line through two estimates, followed to ``step``."""
    del noisy
    ahead = (step.index - last.step.index) / (last.step.index - before.step.index)
    return last.denoised + ahead * (last.denoised - before.denoised)


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What a step cache did, in one segment or in several: ``reused`` of ``steps`` were not computed;
    ``checks`` of those that could have been were, the worst with a relative error of ``worst``; ``off`` is
    the number of segments in which that was more than allowed, and the cache was switched off."""

    steps: int = 0
    reused: int = 0
    checks: int = 0
    worst: float = 0.0
    off: int = 0

    def __add__(self, other: CacheReport) -> CacheReport:
        return CacheReport(
            self.steps + other.steps,
            self.reused + other.reused,
            self.checks + other.checks,
            max(self.worst, other.worst),
            self.off + other.off,
        )

    def text(self) -> str:
        """For people."""
        said = f"step cache: {self.reused} of {self.steps} steps were not computed"
        if self.checks:
            said += f"; {self.checks} were computed to check, the worst was {self.worst:.1%} off"
        if self.off:
            said += f"; switched off in {self.off} segment{'s' * (self.off > 1)}, where that was too much"
        return said


class StepCache:
    """A denoiser that computes some of a segment's ``steps`` only; made anew for every segment.

    A step is reused while its predicted relative error (L2) is below ``threshold``: the error that reuse
    would have had at the last true estimate, for each step since then. Never the first steps, the last one,
    or one ``at_least`` names. One of every ``CHECKED`` is computed all the same, and where it is more than
    ``bound`` off, nothing is reused any more. Reads one value from the device at every true estimate.
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
        self._computed = {*range(FIRST), steps - 1, *at_least}
        self._known: tuple[Estimate, ...] = ()
        self._error_a_step = math.inf
        self._candidates = 0
        self.report = CacheReport()

    def __call__(self, noisy: Tensor, step: Step) -> Tensor:
        """The estimate, of the network or of earlier estimates."""
        self.report += CacheReport(steps=1)
        if self.report.off:
            return self._denoise(noisy, step)
        if not self._may_reuse(step):
            return self._compute(noisy, step)[0]
        self._candidates += 1
        if self._candidates % CHECKED:
            self.report += CacheReport(reused=1)
            before, last = self._known
            return self._reuse(last, before, noisy, step)
        denoised, error = self._compute(noisy, step)
        self.report += CacheReport(checks=1, worst=error, off=int(not error <= self._bound))
        return denoised

    def _may_reuse(self, step: Step) -> bool:
        if step.index in self._computed or len(self._known) < 2:
            return False
        since = step.index - self._known[-1].step.index
        return self._error_a_step * since < self._threshold

    def _compute(self, noisy: Tensor, step: Step) -> tuple[Tensor, float]:
        """The network's estimate, and the relative error that reuse would have had."""
        found, error = Estimate(step, noisy, self._denoise(noisy, step)), math.inf
        if len(self._known) == 2:
            before, last = self._known
            reused = self._reuse(last, before, noisy, step)
            error = float((_energy(reused - found.denoised) / _energy(found.denoised)).sqrt())
            self._error_a_step = error / (step.index - last.step.index)
        self._known = (*self._known[-1:], found)
        return found.denoised, error


def _energy(values: Tensor) -> Tensor:
    return values.square().sum()
