"""safetensors files with their configuration inside: reading, writing, and loading without leniency."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from ..errors import CheckpointError, OutputError
from ..quantization.fp8 import FP8, fp8_scale, to_fp8
from ..quantization.precision import Precision
from .component import METADATA_KEY, StoredComponent, find_component, read_own_config
from .source import CheckpointSource, borrow_source, open_source
from .verify import FileVerifier

Shapes = Mapping[str, tuple[int, ...]]


def write_weights(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Tensors and their configuration in one file, complete or not there at all."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        header = {METADATA_KEY: json.dumps(config)}  # a single entry: several have no fixed order
        cast(Any, safetensors_torch).save_file(tensors, str(unfinished), metadata=header)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            "The weights cannot be written.",
            found=f"{path}: {error}",
            expected="a folder with room that you may write to",
            fix="free some space or choose another folder",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration stored in a weights file; reads its header only. Raises ``CheckpointError``."""
    with open_source(path) as source:
        own_config = read_own_config(source.metadata, path)
    if own_config is None:
        raise CheckpointError(
            "The weights file does not say what it is.",
            found=f"{path.name} without a readable {METADATA_KEY!r} entry in its metadata",
            expected="a file of a Hallo3 model folder",
            fix="choose a model folder written by this package",
        )
    return dict(own_config)


def read_component(
    where: Path | CheckpointSource, part: str, precision: Precision, verifier: FileVerifier | None = None
) -> dict[str, Tensor]:
    """A part's tensors under our names, from any file or folder that holds it.

    Floating point ones are what the precision computes in; matrices that it holds in eight bits stay or
    become so, with their scales. A ``verifier`` verifies the whole file first. Raises ``CheckpointError``.
    """
    with borrow_source(where) as source:
        found = find_component(source, part)
        if verifier is not None:
            verify_component(source, verifier)
        state: dict[str, Tensor] = {}
        for name in found.assemblies:
            state.update(read_tensor(found, name, precision))
    return state


def verify_component(where: Path | CheckpointSource, verifier: FileVerifier) -> list[str]:
    """The SHA-256 of a component's files, which are verified. Raises ``CheckpointError``."""
    with borrow_source(where) as source:
        return [verifier.get_hash(file) for file in source.files]


def read_tensor(found: StoredComponent, name: str, precision: Precision) -> dict[str, Tensor]:
    """One tensor of a component in a precision, with its scale if it is fp8."""
    if not precision.is_fp8(name):
        return {name: found.tensor(name, precision.compute)}
    scale = found.scale(name)
    if found.dtype(name) == FP8 and (scale is None or scale.numel() == 1):
        numbers = found.stored(name)
        scale = torch.ones(()) if scale is None else scale.float().reshape(())
    else:
        values = found.tensor(name, torch.float32)
        scale = fp8_scale(values.abs().max())
        numbers = to_fp8(values, scale)
    return {name: numbers, name.removesuffix("weight") + "weight_scale": scale}


def read_state(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a file as it names them, floating point as ``dtype``. Raises ``CheckpointError``."""
    with open_source(path) as source:
        state = {name: source.read(name) for name in source.entries}
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


def load_strict(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Give a network on meta its tensors; nothing unknown, missing, misshapen or left on meta.

    Raises ``CheckpointError`` with the first keys of each kind. Leaves the network in eval mode, without
    gradients.
    """
    check_state(network.state_dict(), state, what)
    network.load_state_dict(state, strict=True, assign=True)
    tensors = [*network.named_parameters(), *network.named_buffers()]
    if stranded := [name for name, tensor in tensors if tensor.is_meta]:
        raise CheckpointError(
            f"{what} is incomplete after loading.",
            found=f"no values for {stranded[0]}",
            expected="values for every tensor",
            fix="this is a fault of the package; please report it with the name above",
        )
    network.eval().requires_grad_(False)


def check_state(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights whose names or shapes differ from ``wanted``; ``CheckpointError`` names the first."""
    check_shapes(get_shapes(wanted), get_shapes(state), what)


def get_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_shapes(wanted: Shapes, found: Shapes, what: str) -> None:
    """Refuse names or shapes that differ from ``wanted``; ``CheckpointError`` names the first of each."""
    wrong = {
        "unknown": sorted(set(found) - set(wanted)),
        "missing": sorted(set(wanted) - set(found)),
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(wanted[name])}"
            for name in wanted
            if name in found and found[name] != wanted[name]
        ],
    }
    problems = [f"{len(keys)} keys {kind} (first: {keys[0]})" for kind, keys in wrong.items() if keys]
    if problems:
        raise CheckpointError(
            f"These weights are not {what}.",
            found="; ".join(problems),
            expected=f"exactly its {len(wanted)} tensors",
            fix="check that the file is complete and belongs to this configuration",
        )
