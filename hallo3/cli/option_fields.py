"""Fields of a dataclass that are options of a command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Any

from ..config import COMPONENTS


def option(metavar: str, help: str, *, default: Any = None, short: str = "", **settings: Any) -> Any:
    """A field that is an option, named after the field. ``settings`` are those of ``add_argument``."""
    settings |= {"help": help or None} | ({"metavar": metavar} if metavar else {})
    metadata = {"flags": (short,) if short else (), "settings": settings}
    if isinstance(default, list):
        return field(default_factory=list[Any], metadata=metadata)
    return field(default=default, metadata=metadata)


def choice(choices: Iterable[str], help: str, *, default: str | None = None) -> Any:
    return option("", help, default=default, choices=tuple(choices))


def component_choice(help: str, *others: str) -> Any:
    return option("", help, default=[], action="append", choices=(*COMPONENTS, *others))


def switch(help: str) -> Any:
    return option("", help, default=False, action="store_true")


def argument(metavar: str, help: str, **settings: Any) -> Any:
    return field(metadata={"settings": settings | {"metavar": metavar, "help": help}})
