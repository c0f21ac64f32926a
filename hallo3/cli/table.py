"""The rows of a table: CSV, JSON Lines or YAML, each with the options of ``hallo3 animate``."""

from __future__ import annotations

import csv
import io
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

from ..errors import InputError, describe_error
from ..fleet.objects import is_url
from ..media.video import CODECS
from ..storage.files import open_regular
from .options import AnimateOptions, BatchOptions, Voice, add_options

MAX_TABLE_BYTES, MAX_ROWS = 64 << 20, 100_000
INPUTS = ("portrait", "identity", "speech", "speakers", "script")
FILES = (*INPUTS, "output", "preview", "save_identity", "speech_chart", "chart")
"""Columns with files, from the table's folder."""
ABSENT = ("jobs", "plan", "json")
"""Options that no row has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A video to make: its number in the table, from 1, and the options, or why there are none."""

    number: int
    options: AnimateOptions | None
    fault: str = ""


class OptionsParser(ArgumentParser):
    """Raises where the command would exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message[:1].upper() + message[1:] + ".")


def read_table(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a CSV, JSON Lines or YAML file. Raises ``InputError``."""
    with open_regular(path, follow_links=True) as file:
        data = file.read(MAX_TABLE_BYTES + 1)
    kind, rows, reason = path.suffix.lower(), None, ""
    try:
        text = data.decode("utf-8-sig")
        if kind == ".csv":
            rows = [*csv.DictReader(io.StringIO(text), strict=True)]
        elif kind in (".jsonl", ".ndjson", ".json"):
            lines = text if kind == ".json" else f"[{','.join(filter(str.strip, text.splitlines()))}]"
            rows = json.loads(lines)
        elif kind in (".yaml", ".yml"):
            import yaml  # seldom needed

            rows = yaml.safe_load(text)
    except (ValueError, csv.Error, RecursionError) as error:
        reason = f": {error}"
    except Exception as error:  # YAML's own
        reason = f": {describe_error(error)}"
    whole = isinstance(rows, list) and all(isinstance(row, dict) for row in cast("list[Any]", rows))
    if len(data) > MAX_TABLE_BYTES or not whole or not 0 < len(cast("list[Any]", rows)) <= MAX_ROWS:
        raise InputError(
            "The table cannot be read.",
            found=f"{path.name}, {len(data)} bytes{reason}",
            expected=f".csv, .jsonl, .json or .yaml with 1 to {MAX_ROWS:,} rows of names and values",
            fix="name the columns in a CSV's first line: portrait,speech,prompt",
        )
    return cast("list[Mapping[str, Any]]", rows)


def parse_rows(table: list[Mapping[str, Any]], options: BatchOptions) -> Iterator[Row]:
    """The options of each row: those of the command line, changed by the row's own."""
    parser = OptionsParser("row", add_help=False, allow_abbrev=False)
    add_options(parser, AnimateOptions)
    known = {each.name: each for each in fields(AnimateOptions) if each.name not in ABSENT}
    defaults = {each.name: getattr(options, each.name) for each in fields(AnimateOptions)}
    defaults |= dict.fromkeys(ABSENT, False)
    home, outputs = options.table.parent, set[Path | str]()
    suffix = CODECS[options.codec].files[0]
    for number, row in enumerate(table, 1):
        try:
            if is_url(url := str(row.get("output") or "")):  # the video is written here, then uploaded
                row = {**row, "upload": url, "output": None}
            words = [word for name, value in row.items() for word in to_words(name, value, known)]
            values = defaults | {
                "output": None,
                "approximate": [*options.approximate],
            }  # a list it appends to
            if row.get("speech"):
                values |= {"speech": None, "voices": ()}
            found = vars(parser.parse_args(words, Namespace(**values)))
            given = {str(name).strip().replace("-", "_") for name, value in row.items() if value}
            for name in FILES:
                if isinstance(found[name], Path) and name in given:
                    found[name] = home / found[name]
            if "speech" in given:
                voices = (Voice(*voice) for voice in found["voices"])
                found["voices"] = tuple(
                    voice._replace(path=home / voice.path) if voice.path else voice for voice in voices
                )
            if found["output"] is None:
                names = (found[key].stem for key in ("portrait", "identity", "speech") if found[key])
                name = f"{number:05}_{'_'.join(names)}"[:100]
                ending = PurePosixPath(found["upload"] or "").suffix or suffix
                found["output"] = (options.output or home) / f"{name}{ending}"
            if found["output"] in outputs or found["upload"] in outputs:
                raise InputError(
                    "Two rows have this output.",
                    found=found["upload"] or str(found["output"]),
                    expected="a file per row",
                    fix="give each row another output, or none",
                )
            outputs |= {found["output"], found["upload"]} - {None}
            yield Row(number=number, options=AnimateOptions(**found))
        except InputError as error:
            yield Row(number=number, options=None, fault=str(error))


def to_words(name: object, value: object, known: Mapping[str, Any]) -> list[str]:
    """A cell as words of a command line."""
    column = str(name).strip().replace("-", "_")
    if column not in known:
        raise InputError(
            "This column is no option of animate.",
            found=repr(name)[:60] if name is not None else f"{len(cast('list[Any]', value))} cells too many",
            expected=", ".join(known),
            fix="rename or remove it; quote cells with commas",
        )
    flag = f"--{column.replace('_', '-')}"
    if value is None or value == "":
        return []
    if known[column].metadata["settings"].get("action") == "store_true":
        truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if (chosen := truth.get(str(value).strip().lower())) is None:
            raise InputError(f"{column} is neither true nor false.", found=repr(value)[:60])
        return [flag] * chosen
    cells = cast("list[object]", value) if isinstance(value, list) else [value]
    if not all(isinstance(cell, str | int | float) for cell in cells):
        raise InputError(
            f"{column} has no such value.", found=repr(cells)[:60], expected="a text or a number"
        )
    return [f"{flag}={cell}" for cell in cells]
