"""``hallo3 batch``: a table of videos, row by row in one process, with the options of ``hallo3 animate``."""

from __future__ import annotations

import copy
import csv
import io
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn, cast

from ..errors import Hallo3Error, InputError, describe_error
from ..media.video import CODECS
from ..storage.files import open_regular
from .animate import run_animate
from .options import AnimateOptions, BatchOptions, add_options
from .request import read_request

MAX_TABLE_BYTES, MAX_ROWS = 64 << 20, 100_000
TRIES = 3
"""Of a row that fails; one that is refused has one."""
FILES = ("portrait", "identity", "speech", "output", "preview", "save_identity", "speech_chart", "chart")
"""Columns with files, from the table's folder."""
ABSENT = ("table", "check", "jobs", "plan", "json")
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


def run_batch(options: BatchOptions) -> int:
    """The exit code. Raises ``InputError`` for a table that cannot be read."""
    rows = [*parse_rows(read_table(options.table), options)]
    if options.check or options.plan:
        return _report(rows, len(rows), check_row if options.check else plan_row)
    faulty = [row for row in rows if row.options is None]
    for row in faulty:
        _say(row, len(rows), row.fault)
    whole = sorted((row for row in rows if row.options), key=_group)  # one model after the other
    return _report(whole, len(rows), render_row, failed=len(faulty))


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
    home, outputs = options.table.parent, set[Path]()
    suffix = CODECS[options.codec].files[0]
    for number, row in enumerate(table, 1):
        try:
            words = [word for name, value in row.items() for word in to_words(name, value, known)]
            values = copy.deepcopy(defaults) | {"output": None}  # some options append to a list
            found = vars(parser.parse_args(words, Namespace(**values)))
            given = {str(name).strip().replace("-", "_") for name, value in row.items() if value}
            for name in FILES:
                if found[name] is not None and name in given:
                    found[name] = home / found[name]
            if found["output"] is None:
                names = (found[key].stem for key in ("portrait", "identity", "speech") if found[key])
                name = f"{number:05}_{'_'.join(names)}"[:100]
                found["output"] = (options.output or home) / f"{name}{suffix}"
            if found["output"] in outputs:
                raise InputError(
                    "Two rows have this output.",
                    found=str(found["output"]),
                    expected="a file per row",
                    fix="give each row another output, or none",
                )
            outputs.add(found["output"])
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


def check_row(options: AnimateOptions) -> str:
    """Raises what a run would before it renders."""
    request = read_request(replace(options, plan=True))
    if request.subject.identity is None:
        _ = request.subject.portrait
    return ""


def plan_row(options: AnimateOptions) -> str:
    with redirect_stdout(io.StringIO()) as printed:
        run_animate(replace(options, plan=True))
    return printed.getvalue().rstrip()


def render_row(options: AnimateOptions) -> str:
    assert options.output is not None
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(io.StringIO()) as printed:
        run_animate(options)
    return printed.getvalue().rstrip()


def _group(row: Row) -> tuple[str, str, str]:
    """Rows with equal keys use the same weights and features."""
    options = row.options
    assert options is not None
    return str(options.model), options.dtype, str(options.identity or options.portrait)


def _report(rows: list[Row], total: int, run: Callable[[AnimateOptions], str], *, failed: int = 0) -> int:
    """Run each row and say how it went; the exit code."""
    done = 0
    for row in rows:
        text, error = row.fault, None
        for _ in range(TRIES if row.options else 0):
            try:
                text, error = run(cast(AnimateOptions, row.options)), None
                break
            except InputError as refused:
                text, error = str(refused), refused
                break
            except Hallo3Error as failure:
                text, error = str(failure), failure
            except Exception as failure:
                text, error = describe_error(failure), failure
        if row.options is None or error is not None:
            failed += 1
        else:
            done += 1
        if text:
            _say(row, total, text)
    print(f"{done} of {total} rows are fine" + f", {failed} are not" * bool(failed))
    return 0 if not failed else 1 if done else 2


def _say(row: Row, total: int, text: str) -> None:
    print(f"row {row.number} of {total}: {text}", flush=True)
