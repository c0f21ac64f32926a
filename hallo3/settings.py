"""What a user may choose for a run; whatever is left out is the model's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .config import Defaults
from .errors import InputError
from .noise import seeded_noise
from .sampling.samplers import sampler_named
from .sampling.schedule import schedule

POSTERIORS = ("mean", "sample")
GUIDANCE_LIMIT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A run's choices, complete and checked.

    ``posterior`` "mean" encodes pictures without noise; "sample" is what the original does.
    ``passes`` says how both guidance branches are computed, see PASSES, and ``on_access`` projects conditions
    when they are read: both save memory and change no result beyond rounding.
    Raises ``InputError`` for a value out of range.
    """

    steps: int
    guidance_scale: float
    sampler: str
    seed: int = 0
    motion_drop: float = 0.1
    posterior: str = "mean"
    passes: str = "batched"
    on_access: bool = False

    def __post_init__(self) -> None:
        schedule(self.steps)
        sampler_named(self.sampler)
        seeded_noise(self.seed)
        _within("guidance scale", self.guidance_scale, 0.0, GUIDANCE_LIMIT)
        _within("motion drop", self.motion_drop, 0.0, 1.0)
        if self.posterior not in POSTERIORS:
            raise InputError(
                "This way of encoding does not exist.",
                found=repr(self.posterior),
                expected=" or ".join(POSTERIORS),
                do="choose one of these",
            )

    @property
    def branches(self) -> int:
        """Network evaluations a step: a guidance scale of 1 needs no unconditional branch."""
        return 1 if self.guidance_scale == 1.0 else 2


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


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(
            f"The {name} cannot be used.",
            found=f"{value:g}",
            expected=f"a number from {low:g} to {high:g}",
            do="choose a value in that range",
        )
