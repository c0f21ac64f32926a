"""Dataclasses as argument parsers: a field is an option, its annotation the option's type, and each base
class a group of options with the class's ``title`` and ``about``."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import MISSING, field, fields
from inspect import get_annotations
from pathlib import Path
from typing import Any

TYPES: dict[str, Any] = {"int": int, "float": float, "Path": Path}


def option(metavar: str, help: str, *, default: Any = None, short: str = "", **settings: Any) -> Any:
    """A field that is an option, named after the field. ``settings`` are those of ``add_argument``."""
    settings |= {"help": help or None} | ({"metavar": metavar} if metavar else {})
    metadata = {"flags": (short,) if short else (), "settings": settings}
    if isinstance(default, list):
        return field(default_factory=list[Any], metadata=metadata)
    return field(default=default, metadata=metadata)


def choice(choices: Iterable[str], help: str, *, default: str | None = None) -> Any:
    return option("", help, default=default, choices=tuple(choices))


def switch(help: str) -> Any:
    return option("", help, default=False, action="store_true")


def argument(metavar: str, help: str, **settings: Any) -> Any:
    """A field that is a positional argument."""
    return field(metadata={"settings": settings | {"metavar": metavar, "help": help}})


def add_options(parser: ArgumentParser, options: type) -> None:
    for group in (options, *options.__bases__):
        title, own = vars(group).get("title"), get_annotations(group)
        add = (parser.add_argument_group(title, vars(group).get("about")) if title else parser).add_argument
        for each in fields(options):
            if each.name not in own:
                continue
            settings = dict(each.metadata["settings"])
            kind = TYPES.get(str(each.type).removeprefix("list[").removesuffix("]").removesuffix(" | None"))
            if kind is not None and "action" not in settings:
                settings.setdefault("type", kind)
            if "flags" not in each.metadata:
                add(each.name, **settings)
                continue
            default = each.default_factory() if each.default_factory is not MISSING else each.default
            name = f"--{each.name.replace('_', '-')}"
            add(*each.metadata["flags"], name, dest=each.name, default=default, **settings)
