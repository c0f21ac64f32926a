"""Published names of tensors -> ours and back, by the shipped tables."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hallo3.checkpoints.keymaps import PLACEHOLDERS, KeyMap, Split


def to_ours(keys: KeyMap, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plan = keys.assemble({name: tuple(tensor.shape) for name, tensor in state.items()})
    return {
        name: torch.cat([state[key].flatten()[a:b] for key, a, b in source.stretches]).reshape(source.shape)
        for name, source in plan.items()
    }


def to_original(keys: KeyMap, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the published names; dropped ones stay absent."""
    rules = [(_pattern(target), source, group) for source, target, group in _targets(keys)]
    pieces: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        ((match, source, group),) = (
            (match, source, group) for pattern, source, group in rules if (match := pattern.fullmatch(name))
        )
        chunks = zip(group, tensor.chunk(len(group)), strict=True)
        pieces.setdefault(source.format_map(match.groupdict()), {}).update(chunks)
    return {name: torch.cat([group[n] for n in sorted(group)]) for name, group in pieces.items()}


def _targets(keys: KeyMap) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for source, rule in keys.rules.items():
        targets = {rule: (0,)} if isinstance(rule, str) else rule.targets if isinstance(rule, Split) else {}
        yield from ((source, target, group) for target, group in targets.items())


def _pattern(template: str) -> re.Pattern[str]:
    parts = enumerate(re.split(r"\{(\w+)\}", template))
    return re.compile("".join(f"(?P<{p}>{PLACEHOLDERS[p]})" if n % 2 else re.escape(p) for n, p in parts))
