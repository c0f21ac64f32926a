"""What may be given up for speed, by name: nothing is on unless it is asked for.

What each costs is measured on data with a known answer (``benchmarks/mixtures.py``) and on the built-in model
(``benchmarks/approximations.py``); on the released weights nothing has been run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import InputError
from .sampling.step_cache import FIRST
from .settings import Settings

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


def approximations_named(names: Iterable[str]) -> tuple[Approximation, ...]:
    """The approximations of these names, each once, in the table's order.

    Raises ``InputError`` for a name that is none, and for two that change the same.
    """
    wanted = set(names)
    if unknown := sorted(wanted - APPROXIMATIONS.keys()):
        raise InputError(
            "This approximation does not exist.",
            found=repr(unknown[0]),
            expected=", ".join(APPROXIMATIONS),
            do="choose of these, several with commas between them",
        )
    chosen = tuple(row for name, row in APPROXIMATIONS.items() if name in wanted)
    for number, row in enumerate(chosen):
        for other in chosen[number + 1 :]:
            if row.changes.keys() & other.changes.keys():
                raise InputError(
                    "These approximations contradict each other.",
                    found=f"{row.name} and {other.name}",
                    expected="one of them: both set the same",
                    do=f"leave {row.name} or {other.name} out",
                )
    return chosen
