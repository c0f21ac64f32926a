"""Random sets: complete small models with untrained weights, so that every code path runs anywhere.

They animate nothing; their frames are noise shaped by the real mathematics.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..config import COMPONENTS, NANO, SPEECH_ENCODERS, TEXT_ENCODERS, TINY, Hallo3Config, to_dict
from ..errors import InputError, check_range
from ..noise import MAX_SEED, make_generator
from ..text_encoder import untie_embedding
from .load import build_on_meta, read_config, write_weights
from .locate import ModelFolder

SIZES = {"tiny": TINY, "nano": NANO}
RANDOM_MARK = "random"
SPREAD = 0.02
"""Of weights that are only timed; norms are near 1."""
M = TypeVar("M", bound=nn.Module)


def write_random_set(folder: Path, seed: int, size: str) -> Hallo3Config:
    """A complete model folder with random weights; the same seed gives the same bytes. Raises ``InputError``
    if the folder holds anything but an earlier random set, or for a seed outside 64 bits."""
    check_range("seed", seed, 0, MAX_SEED)
    paths = {name: ModelFolder(folder).own(name) for name in COMPONENTS}
    _claim(folder, list(paths.values()))
    configs = {
        "vae": to_dict(SIZES[size].vae),
        "text_encoder": {**TEXT_ENCODERS[size], "tokenizer": "bytes"},
        "speech_encoder": SPEECH_ENCODERS[size],
    }
    for name in COMPONENTS:
        config = configs.get(name, to_dict(SIZES[size]))
        state = make_random_state(build_on_meta(name, config), f"{seed}|{size}|{name}")
        header = {"part": name, "config": config, RANDOM_MARK: seed}
        write_weights(paths[name], untie_embedding(state), header)
    return SIZES[size]


def make_random_state(network: nn.Module, name: str) -> dict[str, Tensor]:
    """Values for every tensor of a network on meta, decided by a name and the tensor's own name."""
    state: dict[str, Tensor] = {}
    for key, tensor in network.state_dict().items():
        drawn = make_generator(f"{name}|{key}").standard_normal(tuple(tensor.shape), dtype="float32")
        values = torch.from_numpy(drawn)
        if tensor.ndim > 1:
            state[key] = values / tensor[0].numel() ** 0.5  # a matrix keeps a signal's size
        else:
            state[key] = 1 + 0.1 * values if key.endswith("weight") else 0.1 * values  # norms, biases
    return state


def fill_at_random(
    network: M, dtype: torch.dtype, device: torch.device, home: torch.device | None = None, seed: int = 0
) -> M:
    """Give a network on meta, or the rest of it, weights to time it with: drawn on ``device``, a tensor at a
    time, and kept there or in ``home``. Zeros would change the times."""
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)

    def draw(name: str, like: Tensor) -> Tensor:
        values = torch.empty(like.shape, dtype=dtype, device=device).normal_(0, SPREAD, generator=generator)
        return (values.add_(1) if like.ndim == 1 and name.endswith("weight") else values).to(home)

    state = {name: draw(name, tensor) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _claim(folder: Path, paths: list[Path]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "The folder cannot be made.",
            found=f"{folder}: {error.strerror or error}",
            expected="a folder you may write to",
            fix="choose another folder",
        ) from error
    foreign = [path for path in folder.iterdir() if path not in paths]
    foreign += [path for path in paths if path.exists() and RANDOM_MARK not in read_config(path)]
    if foreign:
        raise InputError(
            "The folder already holds something else.",
            found=str(foreign[0]),
            expected="an empty folder, or an earlier random set",
            fix="choose another folder; nothing was changed",
        )
