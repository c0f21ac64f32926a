"""``--approximate``: what is given up for speed, asked for by name, and said."""

from __future__ import annotations

import warnings
from argparse import ArgumentParser, Namespace

from ..approximations import APPROXIMATIONS, UNTESTED, approximations_named
from ..errors import InputError
from ..settings import Settings


def approximate_option(command: ArgumentParser) -> None:
    """Give a command ``--approximate``."""
    group = command.add_argument_group(
        "approximations",
        f"Faster, and not the same video; {UNTESTED}. "
        + " ".join(f"{row.name}: {row.about}." for row in APPROXIMATIONS.values()),
    )
    group.add_argument(
        "--approximate",
        action="append",
        default=[],
        metavar="NAME[,NAME]",
        help="by these names; may be given several times (default: nothing is approximated)",
    )


def approximated(settings: Settings, options: Namespace, *, known: bool) -> Settings:
    """The settings with what is asked for; ``known`` is a model with which it has been tried.

    Warns of what saves nothing, which is left out. Raises ``InputError`` for names that are none, and for
    what contradicts itself.
    """
    names = (name.strip() for text in options.approximate for name in text.split(","))
    chosen = approximations_named(names)
    for row in chosen:
        if "steps" in row.changes and options.steps is not None:
            raise InputError(
                "There are two answers to how many steps are to be sampled.",
                found=f"--steps {options.steps} and --approximate {row.name}",
                expected="one of them",
                do=f"leave --steps or {row.name} out",
            )
    used: list[str] = []
    for row in chosen:
        if row.saves(settings):
            settings = row.on(settings)
            used.append(row.name)
        else:
            run = f"{settings.steps} step{'s' * (settings.steps > 1)}, guidance {settings.guidance_scale:g}"
            warnings.warn(f"{row.name} saves nothing here ({run}) and is left out", stacklevel=2)
    if used and not known:
        warnings.warn(f"{', '.join(used)}: {UNTESTED}", stacklevel=2)
    return settings
