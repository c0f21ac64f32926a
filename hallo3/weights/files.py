"""safetensors files with their configuration inside: reading, writing, and loading without leniency."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from ..errors import CheckpointError, OutputError

METADATA_KEY = "hallo3"
"""Metadata entry whose JSON says which part a file is and how large."""


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
            do="free some space or choose another folder",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The configuration stored in a weights file; reads its header only. Raises ``CheckpointError``."""
    config = read_header(path)
    if config is None:
        raise CheckpointError(
            "The weights file does not say what it is.",
            found=f"{path.name} without a readable {METADATA_KEY!r} entry in its metadata",
            expected="a file of a Hallo3 model folder",
            do="choose a model folder written by this package",
        )
    return config


def read_header(path: Path) -> dict[str, Any] | None:
    """What a file says it is; None if it does not say. Raises ``CheckpointError`` for no file, or a
    damaged one."""
    with _opened(path) as file:
        text = cast("dict[str, str]", file.metadata() or {}).get(METADATA_KEY)
    try:
        config = json.loads(text) if text else None
    except json.JSONDecodeError:
        return None
    return cast("dict[str, Any]", config) if isinstance(config, dict) else None


def read_state(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of a file, floating point ones as ``dtype``. Raises ``CheckpointError``."""
    with _opened(path) as file:
        state = {name: cast(Tensor, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
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
            do="this is a fault of the package; please report it with the name above",
        )
    network.eval().requires_grad_(False)


def check_state(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights whose names or shapes differ from ``wanted``; ``CheckpointError`` names the first."""
    wrong = {
        "unknown": sorted(set(state) - set(wanted)),
        "missing": sorted(set(wanted) - set(state)),
        "of another shape": [
            f"{name} {list(state[name].shape)} instead of {list(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ],
    }
    found = [f"{len(keys)} keys {kind} (first: {keys[0]})" for kind, keys in wrong.items() if keys]
    if found:
        raise CheckpointError(
            f"These weights are not {what}.",
            found="; ".join(found),
            expected=f"exactly its {len(wanted)} tensors",
            do="check that the file is complete and belongs to this configuration",
        )


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(
            "A weights file is missing.",
            found=f"no file {path}",
            expected="the five files of a model folder",
            do="complete the folder, or leave --model out to use the built-in model",
        )
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "A weights file cannot be read.",
            found=f"{path.name}, {path.stat().st_size} bytes: {error}",
            expected="a complete safetensors file",
            do="copy or convert the file again",
        ) from error
