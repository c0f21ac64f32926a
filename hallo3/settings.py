"""What a user may choose for a run; whatever is left out is the model's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .config import Defaults
from .errors import InputError
from .model.guidance import GUIDANCE_PASSES
from .noise import make_noise
from .sampling.samplers import get_sampler
from .sampling.schedule import make_schedule
from .sampling.step_cache import FIRST

POSTERIORS = ("mean", "sample")
GUIDANCE_LIMIT = 100.0
WHOLE = (0.0, 1.0)
"""The guidance interval of a run that is guided throughout."""
CACHE_BOUND = 0.2
"""Twice what ``step-cache`` allows; checks on data with a known answer stay within 1.6 times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A run's choices, complete and checked.

    ``posterior`` "mean" encodes pictures without noise; "sample" is what the original does.
    ``passes`` says how both guidance branches are computed, see PASSES, and ``on_access`` projects conditions
    when they are read, ``steps_on_access`` what the timesteps do too: they save memory and change no result
    beyond rounding.
    Approximations, off by default: ``guidance_interval``, the shares of a run's steps between which guidance
    acts; ``step_cache``, the predicted relative error below which a step is not computed (0: all are), and
    ``step_cache_bound``, the true one above which the cache is switched off (``sampling/step_cache.py``).
    Raises ``InputError`` for a value out of range, a name that is none, and an interval that guides no step,
    unless it is empty by itself (start and end are equal).
    """

    steps: int
    guidance_scale: float
    sampler: str
    seed: int = 0
    motion_drop: float = 0.1
    posterior: str = "mean"
    passes: str = "batched"
    on_access: bool = False
    steps_on_access: bool = False
    guidance_interval: tuple[float, float] = WHOLE
    step_cache: float = 0.0
    step_cache_bound: float = CACHE_BOUND

    def __post_init__(self) -> None:
        make_schedule(self.steps)
        get_sampler(self.sampler)
        make_noise(self.seed)
        _within("guidance scale", self.guidance_scale, 0.0, GUIDANCE_LIMIT)
        _within("motion drop", self.motion_drop, 0.0, 1.0)
        _within("start of the guidance interval", self.guidance_interval[0], 0.0, 1.0)
        _within("end of the guidance interval", self.guidance_interval[1], self.guidance_interval[0], 1.0)
        check_step_cache(self.step_cache, self.step_cache_bound)
        _among(self.posterior, POSTERIORS, "This way of encoding does not exist.")
        _among(self.passes, GUIDANCE_PASSES, "This way of computing both branches does not exist.")
        start, end = self.guidance_interval
        if self.branches == 2 and start < end and not self.guided:
            raise InputError(
                "The guidance interval contains no step.",
                found=f"{start:g} to {end:g} of {self.steps} step{'s' * (self.steps > 1)}: both ends are "
                f"rounded to step {self.guided.start}",
                expected="an interval whose ends are rounded to different steps",
                fix="widen it or sample more steps; to do without guidance, set its scale to 1",
            )

    @property
    def branches(self) -> int:
        """Network evaluations a step: a guidance scale of 1 needs no unconditional branch."""
        return 1 if self.guidance_scale == 1.0 else 2

    @property
    def guided(self) -> range:
        """The steps, by index, in which guidance acts."""
        if self.branches == 1:
            return range(0)
        return range(*(round(share * self.steps) for share in self.guidance_interval))

    @property
    def evaluations(self) -> int:
        """Forward passes of a segment, a branch each; with a step cache at most so many."""
        return self.steps + len(self.guided)


def settings_for(
    defaults: Defaults,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
) -> Settings:
    """The user's choices on top of a model's own."""
    return Settings(
        steps=defaults.steps if steps is None else steps,
        guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
        sampler=defaults.sampler if sampler is None else sampler,
        seed=seed,
        motion_drop=defaults.motion_drop,
    )


def check_step_cache(threshold: float, bound: float) -> None:
    """Refuse a threshold or a bound that is no share. Raises ``InputError``."""
    _within("step cache", threshold, 0.0, 1.0)
    _within("step cache's bound", bound, 0.0, 1.0)


def _among(name: str, names: Iterable[str], headline: str) -> None:
    if name not in (known := tuple(names)):
        raise InputError(headline, found=repr(name), expected=" or ".join(known), fix="choose one of these")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(
            f"The {name} cannot be used.",
            found=f"{value:g}",
            expected=f"a number from {low:g} to {high:g}",
            fix="choose a value in that range",
        )


UNTESTED = "untested on real weights"
"""Of every approximation, until somebody who has the weights has measured it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximation:
    """A named change of :class:`Settings`; ``about`` says in one line what is given up."""

    name: str
    about: str
    changes: Mapping[str, Any]

    def on(self, settings: Settings) -> Settings:
        """The settings with it. It never makes more steps of fewer."""
        changes = dict(self.changes)
        if changes.get("steps", 0) > settings.steps:
            del changes["steps"]
        return replace(settings, **changes)

    def saves(self, settings: Settings) -> bool:
        """Whether it leaves anything out of a run with these settings."""
        after = self.on(settings)
        reuses = after.step_cache > settings.step_cache and after.steps > FIRST + 1
        return reuses or after.evaluations < settings.evaluations


def _table(*rows: Approximation) -> dict[str, Approximation]:
    return {row.name: row for row in rows}


APPROXIMATIONS = _table(
    Approximation(name="steps-30", about="30 sampling steps in place of more", changes={"steps": 30}),
    Approximation(name="steps-20", about="20 sampling steps in place of more", changes={"steps": 20}),
    Approximation(
        name="guidance-middle",
        about="guidance in the middle of the steps only, at half the work outside",
        changes={"guidance_interval": (0.3, 0.9)},
    ),
    Approximation(
        name="step-cache",
        about="steps whose estimate can be foretold to 10 % are not computed; checked on the way",
        changes={"step_cache": 0.1},
    ),
)
"""In the order in which they are put on settings."""


def get_approximations(names: Iterable[str]) -> tuple[Approximation, ...]:
    """The approximations of these names, each once, in the table's order.

    Raises ``InputError`` for a name that is none, and for two that change the same.
    """
    wanted = set(names)
    if unknown := sorted(wanted - APPROXIMATIONS.keys()):
        raise InputError(
            "This approximation does not exist.",
            found=repr(unknown[0]),
            expected=", ".join(APPROXIMATIONS),
            fix="choose of these, several with commas between them",
        )
    chosen = tuple(row for name, row in APPROXIMATIONS.items() if name in wanted)
    for number, row in enumerate(chosen):
        for other in chosen[number + 1 :]:
            if row.changes.keys() & other.changes.keys():
                raise InputError(
                    "These approximations contradict each other.",
                    found=f"{row.name} and {other.name}",
                    expected="one of them: both set the same",
                    fix=f"leave {row.name} or {other.name} out",
                )
    return chosen
