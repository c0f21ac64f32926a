"""The finished networks as a model folder, in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hallo3.checkpoints.load import write_weights
from hallo3.checkpoints.locate import ModelFolder
from hallo3.config import SPEECH_ENCODERS, TEXT_ENCODERS, Hallo3Config, to_dict
from hallo3.errors import CheckpointError
from hallo3.text_encoder import untied

from . import diffusion, vae
from .hearing import load_hearing
from .stage import Run


@dataclass(frozen=True, slots=True)
class Finished:
    """What the stages made, by the parts of a model folder."""

    states: dict[str, dict[str, Tensor]]
    configs: dict[str, dict[str, Any]]


def finished(folder: Path, seed: int, config: Hallo3Config, *, sharpened: bool = True) -> Finished:
    """The averaged weights of all stages, whether they are at their end or not; ``sharpened`` as in
    :func:`training.vae.finished_vae`."""
    average = Run(folder=folder, name=diffusion.NAME, steps=0, seed=seed).state("average")
    speech: nn.Module = load_hearing(folder).network
    states = {
        "transformer": _under(average, "transformer."),
        "reference": _under(average, "reference."),
        "text_encoder": untied(_under(average, "text.")),
        "vae": vae.finished_vae(folder, seed, config.vae, sharpened=sharpened).network.state_dict(),
        "speech_encoder": speech.state_dict(),
    }
    configs = {
        "transformer": to_dict(config),
        "reference": to_dict(config),
        "text_encoder": {**TEXT_ENCODERS["built-in"], "tokenizer": "words"},
        "vae": to_dict(config.vae),
        "speech_encoder": SPEECH_ENCODERS["built-in"],
    }
    return Finished(states, configs)


def write_model(made: Finished, folder: Path) -> None:
    """The five files. Raises ``CheckpointError`` for a value that half precision cannot hold."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in ModelFolder(folder).all():
        name = path.stem
        write_weights(path, _halved(made.states[name], name), {"part": name, "config": made.configs[name]})


def _halved(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    halves = {key: value.to(torch.float16) for key, value in state.items()}
    if lost := [key for key, value in halves.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(
            "A weight cannot be kept in half precision.",
            found=f"{part}: {lost[0]}",
            expected="finite numbers below 65504",
            fix="train again with a lower learning rate",
        )
    return halves


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
