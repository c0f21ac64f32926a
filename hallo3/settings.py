"""Settings of a run, and approximations by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from .config import Defaults
from .errors import InputError, check_choice, check_range
from .model.guidance import GUIDANCE_PASSES
from .noise import MAX_SEED
from .sampling.samplers import CONDITIONAL, MAX_GUIDANCE, PAIR, SAMPLERS, Denoise, Guidance, changed_steps
from .sampling.schedule import TRAIN_STEPS
from .sampling.step_cache import MIN_COMPUTED_STEPS, Reuse, StepCache, extrapolate

if TYPE_CHECKING:
    from .sampling.strengths import Curve, Strengths

POSTERIORS = ("mean", "sample")
ALL_STEPS = (0.0, 1.0)
"""The default guidance interval."""
CACHE_BOUND = 0.2
"""Twice what ``step-cache`` allows; checks on data with a known distribution stay within 1.6 times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a run, checked.

    ``posterior`` "mean" encodes pictures without noise; "sample" is what the original does. ``passes`` says
    how guidance branches are computed (``GUIDANCE_PASSES``). ``on_access`` projects conditions when they
    are read, ``steps_on_access`` modulations, too: both save memory and change results by rounding only.
    ``strengths`` of text and voice take the place of the guidance scale.
    Approximations, off by default: ``guidance_interval``, the shares of the steps between which guidance
    acts; ``step_cache``, the predicted relative error below which a step is skipped (0: none is), and
    ``step_cache_bound``, the measured one above which the cache is switched off (``sampling/step_cache.py``).

    Raises ``InputError`` for a value out of range, an unknown name, and an interval without a step unless its
    ends are equal.
    """

    steps: int
    guidance_scale: float
    sampler: str
    strengths: Strengths | None = None
    seed: int = 0
    motion_drop: float = 0.1
    posterior: str = "mean"
    passes: str = "batched"
    on_access: bool = False
    steps_on_access: bool = False
    guidance_interval: tuple[float, float] = ALL_STEPS
    step_cache: float = 0.0
    step_cache_bound: float = CACHE_BOUND

    def __post_init__(self) -> None:
        start, end = self.guidance_interval
        check_range("number of steps", self.steps, 1, TRAIN_STEPS)
        check_range("seed", self.seed, 0, MAX_SEED)
        check_range("guidance scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        check_range("motion drop", self.motion_drop, 0.0, 1.0)
        check_range("start of the guidance interval", start, 0.0, 1.0)
        check_range("end of the guidance interval", end, start, 1.0)
        check_step_cache(self.step_cache, self.step_cache_bound)
        check_choice(self.sampler, SAMPLERS, "sampler")
        check_choice(self.posterior, POSTERIORS, "posterior")
        check_choice(self.passes, GUIDANCE_PASSES, "passes")
        if self.branches > 1 and start < end and not self.guided:
            raise InputError(
                "The guidance interval contains no step.",
                found=f"{start:g} to {end:g} of {self.steps} step{'s' * (self.steps > 1)}: both ends are "
                f"rounded to step {self.guided.start}",
                expected="an interval whose ends are rounded to different steps",
                fix="widen it or sample more steps; to disable guidance, set its scale to 1",
            )

    @property
    def branches(self) -> int:
        """The most of any step. A guidance scale of 1 needs no unconditional branch."""
        if self.strengths is not None:
            return self.strengths.branches
        return 1 if self.guidance_scale == 1.0 else 2

    @property
    def guided(self) -> range:
        """Indices of the steps in which guidance acts."""
        if self.strengths is None and self.guidance_scale == 1.0:
            return range(0)
        return range(*(round(share * self.steps) for share in self.guidance_interval))

    def guidance(self, seconds: float = 0.0, *, text: bool = True) -> list[Guidance]:
        """Of every step of a segment that begins ``seconds`` into the speech, with or without ``text``. Where
        guidance does not act, no strength is above 1."""
        guided, strengths = self.guided, self.strengths
        if strengths is None:
            alone, pair = Guidance((CONDITIONAL,)), Guidance(PAIR, (self.guidance_scale,))
            return [pair if step in guided else alone for step in range(self.steps)]
        return [
            strengths.at(step, self.steps, seconds, text=text, limit=math.inf if step in guided else 1.0)
            for step in range(self.steps)
        ]

    @property
    def evaluations(self) -> int:
        """Forward passes of one branch per segment; with a step cache or strengths along the video, the
        most."""
        if self.strengths is not None and self.strengths.by_time:
            return self.steps * self.branches
        return sum(len(each.branches) for each in self.guidance())

    def count_evaluations(self, starts: Sequence[float], texts: Sequence[bool]) -> int:
        """Forward passes of one branch in all segments, which begin at these seconds, with or without text;
        with a step cache, the most."""
        by_time, counted = self.strengths is not None and self.strengths.by_time, dict[Any, int]()
        keys = [(start if by_time else 0.0, text) for start, text in zip(starts, texts, strict=True)]
        for start, text in {*keys}:
            guidance = self.guidance(start, text=text)
            counted[start, text] = sum(len(each.branches) for each in guidance)
        return sum(counted[key] for key in keys)


def settings_for(
    defaults: Defaults,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    text_strength: float | str | Curve | None = None,
    voice_strength: float | str | Curve | None = None,
    sampler: str | None = None,
    seed: int = 0,
    text: bool = True,
) -> Settings:
    """A model's defaults with the user's choices. A strength is a number or a curve such as ``0:1, 30:1.5``,
    by default the guidance scale; a run without ``text`` has no use for that of the text. Raises
    ``InputError``."""
    choices: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "sampler": sampler}
    chosen = {name: value for name, value in choices.items() if value is not None}
    settings = Settings(**asdict(defaults) | chosen, seed=seed)
    if text_strength is None and voice_strength is None:
        return settings
    from .sampling.strengths import parse_strengths  # by those who give one

    scale = settings.guidance_scale
    strengths = parse_strengths(scale, text_strength, voice_strength, text=text)
    if (scale := strengths.scale) is not None:
        return replace(settings, guidance_scale=scale)
    return replace(settings, strengths=strengths)


def check_step_cache(threshold: float, bound: float) -> None:
    """Raise ``InputError`` unless both are within 0 to 1."""
    check_range("step cache", threshold, 0.0, 1.0)
    check_range("step cache's bound", bound, 0.0, 1.0)


UNTESTED = "untested on real weights"
"""True of every approximation."""


@dataclass(frozen=True, slots=True)
class Approximation:
    """A named change of :class:`Settings`; ``about`` describes it in one line."""

    name: str
    about: str
    changes: Mapping[str, Any]

    def apply(self, settings: Settings) -> Settings:
        """Never raises the number of steps."""
        fewer = {"steps": min(settings.steps, self.changes.get("steps", settings.steps))}
        return replace(settings, **{**self.changes, **fewer})

    def saves(self, settings: Settings) -> bool:
        """Whether a run with these settings computes less with it."""
        after = self.apply(settings)
        skips = after.step_cache > settings.step_cache and after.steps > MIN_COMPUTED_STEPS + 1
        return skips or after.evaluations < settings.evaluations


APPROXIMATIONS = {
    name: Approximation(name, about, changes)
    for name, about, changes in (
        ("steps-30", "at most 30 sampling steps", {"steps": 30}),
        ("steps-20", "at most 20 sampling steps", {"steps": 20}),
        (
            "guidance-middle",
            "guidance in the middle of the steps only, half the work in the others",
            {"guidance_interval": (0.3, 0.9)},
        ),
        (
            "step-cache",
            "skips steps that the previous two predict to within 10 %; every fourth is checked",
            {"step_cache": 0.1},
        ),
    )
}
"""In the order in which they are applied."""


def get_approximations(names: Iterable[str]) -> tuple[Approximation, ...]:
    """Approximations by name, each once, in the table's order. Raises ``InputError`` for an unknown name, and
    for two that change the same setting."""
    unique = set(names)
    for name in sorted(unique):
        check_choice(name, APPROXIMATIONS, "approximation")
    chosen = tuple(row for name, row in APPROXIMATIONS.items() if name in unique)
    for row, other in combinations(chosen, 2):
        if row.changes.keys() & other.changes.keys():
            raise InputError(
                "These approximations contradict each other.",
                found=f"{row.name} and {other.name}",
                expected="one of them: both change the same setting",
                fix=f"remove {row.name} or {other.name}",
            )
    return chosen


def make_step_cache(
    settings: Settings, denoise: Denoise, guidance: Sequence[Guidance], reuse: Reuse = extrapolate
) -> StepCache | None:
    """A segment's step cache, if the settings have one. Steps where guidance changes are computed."""
    if not settings.step_cache:
        return None
    jumps = settings.strengths.jumps(settings.steps) if settings.strengths else []
    always = changed_steps(guidance) + jumps
    steps, threshold, bound = settings.steps, settings.step_cache, settings.step_cache_bound
    return StepCache(denoise, steps, threshold, bound, at_least=always, reuse=reuse)
