"""A checkpoint's relation to ours as data: each rule is written once and read in both directions.

Templates hold placeholders: ``{i}``, ``{j}`` a number, ``{p}`` ``weight`` or ``bias``, ``{rest}`` anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from ..errors import CheckpointError

_PLACEHOLDERS = {"i": r"\d+", "j": r"\d+", "p": "weight|bias", "rest": r".+"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``source`` in n equal pieces along dim 0 -> targets, each taking the pieces named, in order.

    Without targets the tensor is dropped and ``why`` says so.
    """

    source: str
    targets: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    pieces: int = 1
    why: str = ""


def rename(source: str, target: str) -> Rule:
    """One tensor under another name."""
    return Rule(source=source, targets={target: (0,)})


def split(source: str, pieces: int, targets: Mapping[str, tuple[int, ...]]) -> Rule:
    """One tensor cut into pieces along its first dimension and regrouped; every piece goes somewhere."""
    if sorted(index for group in targets.values() for index in group) != list(range(pieces)):
        raise ValueError(f"{source}: every one of {pieces} pieces must be used once")
    return Rule(source=source, targets=targets, pieces=pieces)


def drop(source: str, why: str) -> Rule:
    """A tensor that has no place with us."""
    return Rule(source=source, why=why)


@dataclass(frozen=True, slots=True)
class Assembly:
    """A tensor of ours as stretches (name, first element, end) of the original's tensors, in order."""

    shape: tuple[int, ...]
    stretches: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class KeyMap:
    """Rules that cover every key of a checkpoint part exactly once."""

    what: str
    rules: tuple[Rule, ...]

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The original's tensors under our names. Raises ``CheckpointError`` for a key no rule knows."""
        plan = self.assemble({key: tuple(tensor.shape) for key, tensor in state.items()})
        return {
            target: _join([state[key].flatten()[a:b] for key, a, b in made.stretches]).reshape(made.shape)
            for target, made in plan.items()
        }

    def assemble(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Assembly]:
        """What each of our tensors is made of, from the original's names and shapes alone.

        Raises ``CheckpointError`` for a key that no rule knows or a shape that cannot be cut.
        """
        ours: dict[str, Assembly] = {}
        for key, shape in shapes.items():
            rule, names = self._match(key)
            for target, group in rule.targets.items():
                if rule.pieces > 1 and (not shape or shape[0] % rule.pieces):
                    raise self._refused(f"{key} of shape {list(shape)}", f"{rule.pieces} equal pieces")
                cut = math.prod(shape) // rule.pieces
                rows = (shape[0] // rule.pieces * len(group), *shape[1:]) if rule.pieces > 1 else shape
                stretches = tuple((key, index * cut, (index + 1) * cut) for index in group)
                ours[target.format_map(names)] = Assembly(rows, stretches)
        return ours

    def to_original(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under the original's names; dropped ones stay absent."""
        groups: dict[str, tuple[Rule, dict[int, Tensor]]] = {}
        for key, tensor in state.items():
            rule, group, names = self._match_reversed(key)
            _, found = groups.setdefault(rule.source.format_map(names), (rule, {}))
            pieces = tensor.chunk(len(group))
            if len(pieces) != len(group):
                raise self._refused(key, f"{len(group)} equal pieces")
            found.update(zip(group, pieces, strict=True))
        for key, (rule, found) in groups.items():
            if len(found) != rule.pieces:
                raise self._refused(key, f"all of {', '.join(rule.targets)}")
        return {key: _join([found[index] for index in sorted(found)]) for key, (_, found) in groups.items()}

    def dropped(self, keys: Iterable[str]) -> dict[str, str]:
        """Which keys have no place with us, and why."""
        matched = ((key, self._match(key)[0]) for key in keys)
        return {key: rule.why for key, rule in matched if not rule.targets}

    def _match(self, key: str) -> tuple[Rule, dict[str, str]]:
        found = [
            (rule, match.groupdict())
            for rule in self.rules
            if (match := _pattern(rule.source).fullmatch(key))
        ]
        if len(found) != 1:
            raise self._refused(key, "a key that exactly one rule knows")
        return found[0]

    def _match_reversed(self, key: str) -> tuple[Rule, tuple[int, ...], dict[str, str]]:
        found = [
            (rule, group, match.groupdict())
            for rule in self.rules
            for target, group in rule.targets.items()
            if (match := _pattern(target).fullmatch(key))
        ]
        if len(found) != 1:
            raise self._refused(key, "a key that exactly one rule makes")
        return found[0]

    def _refused(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"These weights are not {self.what}.",
            found=f"the key {key[:120]}",
            expected=expected,
            do="check that the file is the part of Hallo3 you meant",
        )


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """The template as a regular expression; a placeholder met again must repeat."""
    seen: set[str] = set()
    parts: list[str] = []
    for text, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        parts.append(re.escape(text))
        if name:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{_PLACEHOLDERS[name]})")
            seen.add(name)
    return re.compile("".join(parts))


def _join(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
