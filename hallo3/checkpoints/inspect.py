"""What a file of weights is, without loading it: its parts, their numbers, and whether they are whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..config import COMPONENT_TITLES
from ..errors import CheckpointError, sanitize
from ..units import format_bytes
from .component import StoredComponent, describe_contents, find_components
from .load import check_fit, get_config
from .locate import RELEASE
from .source import open_source
from .tensor_entry import NAMES, TensorEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSummary:
    """A part in a file. ``numbers``: its bytes by type; ``wrong`` says why it cannot be used as it is, empty
    if it can."""

    part: str
    names: str
    tensors: int
    parameters: int
    numbers: dict[str, int]
    left_out: int
    wrong: str

    @property
    def size(self) -> int:
        return sum(self.numbers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A file, or the files of one network. ``numbers``: bytes by type; ``other``: what it is, where it holds
    no part; ``beside``: what it holds besides tensors."""

    path: str
    files: int
    size: int
    kind: str
    tensors: int
    numbers: dict[str, int]
    parts: tuple[ComponentSummary, ...]
    other: str
    beside: tuple[str, ...]
    metadata: tuple[str, ...]


def inspect(path: Path) -> Inspection:
    """Look at a file's structure. Raises ``CheckpointError`` for what is no weights file."""
    with open_source(path) as source:
        parts = find_components(source)
        return Inspection(
            path=str(path),
            files=len(source.files),
            size=source.size,
            kind=source.files[0].kind.value,
            tensors=len(source.entries),
            numbers=_count_bytes(source.entries.values()),
            parts=tuple(map(_summarize, parts.values())),
            other="" if parts else describe_contents(list(source.entries), parts),
            beside=tuple(sorted({name for file in source.files for name in file.beside})),
            metadata=tuple(sorted(source.metadata)),
        )


def format_inspection(inspection: Inspection) -> str:
    several = f"{inspection.files} files, " if inspection.files > 1 else ""
    head = f"{inspection.kind}, {several}{inspection.size:,} bytes, {inspection.tensors:,} tensors"
    lines = [inspection.path, f"  {head}", f"  numbers   {_shares(inspection.numbers)}"]
    for part in inspection.parts:
        lines.append(f"  {part.part}: {COMPONENT_TITLES[part.part]}, {part.names} names")
        left = f", {part.left_out} not used" if part.left_out else ""
        lines.append(
            f"    {part.tensors:,} tensors, {part.parameters:,} parameters{left}: {_shares(part.numbers)}"
        )
        lines.append(f"    {'complete' if not part.wrong else part.wrong}")
        lines.append(f"    belongs in models/{RELEASE[part.part].folder}")
    if inspection.other:
        lines.append(f"  no part of Hallo3: {inspection.other}")
    if inspection.beside:
        lines.append(f"  besides tensors: {', '.join(inspection.beside)}"[:300])
    if inspection.metadata:
        lines.append(f"  metadata  {', '.join(inspection.metadata)}"[:300])
    return "\n".join(sanitize(line) for line in lines)


def _summarize(component: StoredComponent) -> ComponentSummary:
    entries = component.source.entries
    assemblies = component.assemblies.values()
    stored = {key for assembly in assemblies for key, *_ in assembly.stretches}  # some hold several of ours
    wrong = ""
    try:
        check_fit(component, get_config(component))
    except CheckpointError as error:
        wrong = f"{error.headline} {error.found}"
    return ComponentSummary(
        part=component.part,
        names=component.naming.origin,
        tensors=len(assemblies),
        parameters=sum(math.prod(assembly.shape) for assembly in assemblies),
        numbers=_count_bytes(entries[key] for key in stored),
        left_out=len(component.dropped),
        wrong=wrong,
    )


def _count_bytes(entries: Iterable[TensorEntry]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for entry in entries:
        sizes[entry.quantised or NAMES[entry.dtype]] += entry.span
    return dict(sizes.most_common())


def _shares(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in numbers.items()) or "none"
