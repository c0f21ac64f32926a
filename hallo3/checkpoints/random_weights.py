"""Random sets: complete small models with untrained weights, so that every code path runs anywhere.

They animate nothing; their frames are noise shaped by the real mathematics.
"""

from __future__ import annotations

from pathlib import Path

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
