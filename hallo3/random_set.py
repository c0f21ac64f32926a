"""Random sets: complete small models with untrained weights, so that every code path runs anywhere.

They animate nothing; their frames are noise shaped by the real mathematics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .audio.encoder import build_wav2vec2
from .config import Hallo3Config, to_dict
from .errors import InputError
from .load import META, ModelFolder, build_reference
from .model.transformer import Hallo3Transformer
from .noise import named_generator, seeded_noise
from .presets import NANO, SPEECH_ENCODERS, TEXT_ENCODERS, TINY
from .text.encoder import build_t5, untied
from .vae.codec import build_vae
from .weights.files import read_config, write_weights

SIZES = {"tiny": TINY, "nano": NANO}
RANDOM_MARK = "random"


def write_random_set(folder: Path, seed: int, size: str) -> Hallo3Config:
    """A complete model folder with random weights; the same seed gives the same bytes.

    Raises ``InputError`` if the folder holds anything but an earlier random set, or for a seed outside
    64 bits.
    """
    seeded_noise(seed)
    config = SIZES[size]
    files = ModelFolder(folder)
    text, speech = TEXT_ENCODERS[size], SPEECH_ENCODERS[size]
    latent = config.segment.shape.latent
    parts: list[tuple[Path, nn.Module, dict[str, Any]]] = [
        (files.transformer, Hallo3Transformer(config, META), to_dict(config)),
        (files.reference, build_reference(config.trunk, latent), to_dict(config.trunk)),
        (files.vae, cast(nn.Module, build_vae(config.vae).network), to_dict(config.vae)),
        (files.text_encoder, build_t5(text), {**text, "tokenizer": "bytes"}),
        (files.speech_encoder, build_wav2vec2(speech), speech),
    ]
    _claim(folder, [path for path, _, _ in parts])
    for path, network, part_config in parts:
        header = {"part": path.stem, "config": part_config, RANDOM_MARK: seed}
        write_weights(path, untied(random_state(network, f"{seed}|{size}|{path.stem}")), header)
    return config


def random_state(network: nn.Module, name: str) -> dict[str, Tensor]:
    """Values for every tensor of a network on meta, decided by a name and the tensor's own name."""
    return {key: _values(tensor, f"{name}|{key}") for key, tensor in network.state_dict().items()}


def _values(tensor: Tensor, name: str) -> Tensor:
    """Matrices keep a signal's size, norms stay near 1, biases small."""
    drawn = named_generator(name).standard_normal(tuple(tensor.shape), dtype="float32")
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
            do="choose another folder",
        ) from error
    foreign = [path for path in folder.iterdir() if path not in paths]
    foreign += [path for path in paths if path.exists() and RANDOM_MARK not in read_config(path)]
    if foreign:
        raise InputError(
            "The folder already holds something else.",
            found=str(foreign[0]),
            expected="an empty folder, or an earlier random set",
            do="choose another folder; nothing was changed",
        )
