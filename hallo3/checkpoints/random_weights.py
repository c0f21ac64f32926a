"""Random sets: complete small models with untrained weights, so that every code path runs anywhere.

They animate nothing; their frames are noise shaped by the real mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import COMPONENTS, NANO, SPEECH_ENCODERS, TEXT_ENCODERS, TINY, Hallo3Config, to_dict
from ..errors import InputError, check_range
from ..model.transformer import Hallo3Transformer
from ..noise import MAX_SEED, make_generator
from ..speech.wav2vec2 import build_wav2vec2
from ..text_encoder import build_t5, untie_embedding
from ..vae.autoencoder import build_vae
from .component_config import META, build_reference
from .load import read_config, write_weights
from .locate import ModelFolder

SIZES = {"tiny": TINY, "nano": NANO}
RANDOM_MARK = "random"


@dataclass(frozen=True, slots=True)
class RandomComponent:
    """One network's weights, and the configuration that goes into its file."""

    config: dict[str, Any]
    state: dict[str, Tensor]


def make_random_component(name: str, seed: int, size: str) -> RandomComponent:
    """One of ``PARTS``, in memory; the same seed gives the same values as the file of a whole set."""
    network, config = _BUILDERS[name](size)
    return RandomComponent(config, untie_embedding(make_random_state(network, f"{seed}|{size}|{name}")))


def write_random_set(folder: Path, seed: int, size: str) -> Hallo3Config:
    """A complete model folder with random weights; the same seed gives the same bytes.

    Raises ``InputError`` if the folder holds anything but an earlier random set, or for a seed outside
    64 bits.
    """
    check_range("seed", seed, 0, MAX_SEED)
    files = ModelFolder(folder)
    paths = {path.stem: path for path in files.all()}
    _claim(folder, list(paths.values()))
    for name in COMPONENTS:
        part = make_random_component(name, seed, size)
        header = {"part": name, "config": part.config, RANDOM_MARK: seed}
        write_weights(paths[name], part.state, header)
    return SIZES[size]


def _transformer(size: str) -> tuple[nn.Module, dict[str, Any]]:
    return Hallo3Transformer(SIZES[size], META), to_dict(SIZES[size])


def _reference(size: str) -> tuple[nn.Module, dict[str, Any]]:
    config = SIZES[size]
    return build_reference(config.trunk, config.segment.shape.latent), to_dict(config)


def _vae(size: str) -> tuple[nn.Module, dict[str, Any]]:
    config = SIZES[size].vae
    return cast(nn.Module, build_vae(config).network), to_dict(config)


def _text_encoder(size: str) -> tuple[nn.Module, dict[str, Any]]:
    return build_t5(TEXT_ENCODERS[size]), {**TEXT_ENCODERS[size], "tokenizer": "bytes"}


def _speech_encoder(size: str) -> tuple[nn.Module, dict[str, Any]]:
    return build_wav2vec2(SPEECH_ENCODERS[size]), SPEECH_ENCODERS[size]


_BUILDERS: dict[str, Callable[[str], tuple[nn.Module, dict[str, Any]]]] = {
    "transformer": _transformer,
    "reference": _reference,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "speech_encoder": _speech_encoder,
}


def make_random_state(network: nn.Module, name: str) -> dict[str, Tensor]:
    """Values for every tensor of a network on meta, decided by a name and the tensor's own name."""
    return {key: _values(tensor, f"{name}|{key}") for key, tensor in network.state_dict().items()}


def _values(tensor: Tensor, name: str) -> Tensor:
    """Matrices keep a signal's size, norms stay near 1, biases small."""
    drawn = make_generator(name).standard_normal(tuple(tensor.shape), dtype="float32")
    values = torch.from_numpy(drawn)
    if tensor.ndim > 1:
        return values / tensor[0].numel() ** 0.5
    return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values


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
