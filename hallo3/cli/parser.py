"""Dataclasses as argument parsers: one field is one option, its annotation the option's type."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any

TYPES: dict[str, Any] = {"int": int, "float": float, "Path": Path}


def option(*flags_metavar_help: str, default: Any = None, group: str = "", **settings: Any) -> Any:
    """A field that is an option: its flags, metavar (or "") and help; ``settings`` are those of
    ``ArgumentParser.add_argument``."""
    *flags, metavar, help_ = flags_metavar_help
    settings |= {"help": help_ or None} | ({"metavar": metavar} if metavar else {})
    metadata = {"flags": flags, "group": group, "settings": settings}
    if isinstance(default, list):
        return field(default_factory=list[Any], metadata=metadata)
    return field(default=default, metadata=metadata)


def switch(flag: str, help: str, group: str = "") -> Any:
    return option(flag, "", help, default=False, group=group, action="store_true")


def argument(metavar: str, help: str, **settings: Any) -> Any:
    """A field that is a positional argument."""
    settings |= {"metavar": metavar, "help": help}
    return field(metadata={"flags": (), "group": "", "settings": settings})


def add_options(parser: ArgumentParser, options: type, groups: Mapping[str, str]) -> None:
    """Give a parser the options of a dataclass; ``groups`` are titles and descriptions in order."""
    used = {each.metadata["group"] for each in fields(options)}
    places = {
        title: parser.add_argument_group(title, text or None).add_argument
        for title, text in groups.items()
        if title in used
    }
    for each in fields(options):
        add, settings = (
            places.get(each.metadata["group"], parser.add_argument),
            dict(each.metadata["settings"]),
        )
        kind = TYPES.get(str(each.type).removeprefix("list[").removesuffix("]").removesuffix(" | None"))
        if kind is not None and "action" not in settings:
            settings.setdefault("type", kind)
        if not each.metadata["flags"]:
            add(each.name, **settings)
            continue
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        add(*each.metadata["flags"], dest=each.name, default=default, **settings)
