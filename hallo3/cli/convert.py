"""``hallo3 convert``: checkpoints, whatever they were published in -> safetensors files of ours."""

from __future__ import annotations

import ctypes
import shutil
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoints.component import StoredComponent, find_components
from ..checkpoints.component_config import check_fit, get_config, read_json
from ..checkpoints.convert import TEMPORARY_SUFFIX, plan_output, write_output
from ..checkpoints.load import read_config
from ..checkpoints.locate import PLACES, ModelFolder, output_path
from ..checkpoints.source import CheckpointSource, open_source
from ..checkpoints.verify import FileVerifier, unwatched
from ..config import COMPONENT_TITLES, COMPONENTS
from ..errors import CheckpointError, InputError, sanitize
from ..quantization.precision import PRECISIONS, Precision, get_precision
from .options import ConvertOptions
from .progress import file_verifier, show_bytes

TOKENIZER = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
M_MMAP_THRESHOLD = -3
"""glibc's number for the size from which memory is asked of the system and given back to it."""
SHOWN = 3
"""Dropped tensors that are named one by one."""


@dataclass(frozen=True, slots=True)
class Task:
    """A part to be converted, from where to where."""

    part: str
    source: Path
    target: Path


def run_convert(options: ConvertOptions) -> None:
    """The whole command."""
    _return_freed_memory()
    precision = get_precision(options.dtype)
    tasks = _tasks(options, precision)
    examined = file_verifier()
    for task in tasks:
        _convert(task, precision, examined, options.config)
    _copy_tokenizer(options, tasks)


def _return_freed_memory() -> None:
    """Have glibc give blocks of a megabyte and more back when they are freed. By default it learns to keep
    them, and holes of many sizes add up to several times what is in use. Elsewhere there is nothing to do."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 20)


def _tasks(options: ConvertOptions, precision: Precision) -> list[Task]:
    asked = options.part
    wanted = asked or list(COMPONENTS)
    found = {part: path for part in wanted if (path := _place(options.source, part)) is not None}
    missing = [part for part in asked if part not in found]
    if missing or not found:
        raise CheckpointError(
            "There is nothing to convert.",
            found=f"no {COMPONENT_TITLES[missing[0]] if missing else 'part of Hallo3'} in {options.source}",
            expected="a checkpoint, or the folder into which the original's files were downloaded",
            fix="choose that file or folder; `hallo3 inspect` tells what a file is",
        )
    tasks = [
        Task(part, path, output_path(options.target, part, _numbers(part, precision).name))
        for part, path in found.items()
    ]
    for task in tasks:
        _check_target(task.target)
        if task.target.exists() and task.source.exists() and task.target.samefile(task.source):
            raise InputError(
                "A file cannot be converted onto itself.",
                found=str(task.source),
                expected="another folder",
                fix="choose another folder to write to",
            )
    return tasks


def _check_target(target: Path) -> None:
    """Refuse now what could not be written in an hour."""
    above = next(folder for folder in target.parents if folder.exists())
    wrong = next((p for p in (target, target.with_name(target.name + TEMPORARY_SUFFIX)) if p.is_dir()), None)
    if wrong is not None or not above.is_dir():
        raise InputError(
            "The converted weights cannot be written there.",
            found=f"{wrong or above}, which is {'a folder' if wrong else 'a file'}",
            expected="a folder to write files to",
            fix="choose another folder, or remove what is in the way",
        )


def _place(source: Path, part: str) -> Path | None:
    """Where a part is in what was given, which is a file, one network's folder, or the folder of all."""
    if source.is_dir():
        inside = ModelFolder(source).find(part)
        if inside.exists():
            return inside
    if not source.exists():
        raise CheckpointError(
            "There is nothing to convert.",
            found=f"no {source}",
            expected="a checkpoint, or the folder into which the original's files were downloaded",
            fix="check the name",
        )
    if source.is_dir() and any((source / place).exists() for places in PLACES.values() for place in places):
        return None
    with open_source(source) as opened:
        return source if part in find_components(opened) else None


def _convert(task: Task, precision: Precision, examined: FileVerifier, beside: Path | None) -> None:
    started = time.monotonic()
    numbers = _numbers(task.part, precision)
    with open_source(task.source) as source:
        found = find_components(source)[task.part]
        if beside is not None:
            found = replace(found, said={"config": read_json(beside)})
        config = get_config(found)
        check_fit(found, config)
        hashes = {file.path.name: examined.hash_of(file) for file in source.files}
        says = _says(found, config, numbers, hashes)
        if _says_already(task.target) == says:
            print(f"{task.target}: already there")
            return
        with show_bytes("measuring", source.size) if numbers.fp8_weights else nullcontext(unwatched) as watch:
            made = plan_output(found, numbers, says, watch)
        with show_bytes(f"writing {task.target.name}", made.size) as watch:
            write_output(made, task.target, watch)
        _report(task, source, found, made.size, time.monotonic() - started)


def _numbers(part: str, precision: Precision) -> Precision:
    """fp8 is for the two large networks, and the speech encoder stays in fp32, in which it computes."""
    if part == "speech_encoder":
        return PRECISIONS["fp32"]
    large = part in ("transformer", "reference")
    return PRECISIONS["bf16"] if precision.fp8_weights and not large else precision


def _says(
    found: StoredComponent, config: dict[str, Any], precision: Precision, hashes: dict[str, str]
) -> dict[str, Any]:
    return {
        "part": found.part,
        "config": config,
        "precision": precision.name,
        "source": hashes,
        "dropped": dict(found.dropped),
        "writer": f"hallo3 {__version__}",
    }


def _says_already(target: Path) -> dict[str, Any] | None:
    """What a finished file of that name says of itself."""
    try:
        return read_config(target) if target.exists() else None
    except CheckpointError:
        return None


def _report(task: Task, source: CheckpointSource, found: StoredComponent, size: int, seconds: float) -> None:
    print(
        f"{task.target}: {COMPONENT_TITLES[task.part]}, {len(found.made)} tensors, {size:,} bytes, "
        f"in {seconds:.1f} s"
    )
    for why, count in Counter(found.dropped.values()).items():
        names = [name for name, reason in found.dropped.items() if reason == why][:SHOWN]
        print(sanitize(f"  left out: {count} ({', '.join(names)}{', ...' if count > SHOWN else ''}): {why}"))
    beside = sorted({name for file in source.files for name in file.beside})
    if beside:
        print(f"  left out: {len(beside)} entries that training kept beside the weights")


def _copy_tokenizer(options: ConvertOptions, tasks: list[Task]) -> None:
    """T5's tokenizer goes along with T5."""
    if not any(task.part == "text_encoder" for task in tasks) or not options.source.is_dir():
        return
    source = ModelFolder(options.source).tokenizer
    target = output_path(options.target, "tokenizer", "")
    there = [source / name for name in TOKENIZER if (source / name).is_file()]
    if there and source.resolve() != target.resolve():
        target.mkdir(parents=True, exist_ok=True)
        for path in there:
            shutil.copyfile(path, target / path.name)
        print(f"{target}: T5's tokenizer, {len(there)} files")
