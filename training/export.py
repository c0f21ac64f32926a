"""Write the trained networks as a model folder, in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hallo3.checkpoints.load import write_weights
from hallo3.checkpoints.locate import ModelFolder
from hallo3.config import COMPONENTS, SPEECH_ENCODERS, TEXT_ENCODERS, Hallo3Config, to_dict
from hallo3.errors import CheckpointError
from hallo3.face.detector import DetectorNetwork
from hallo3.text_encoder import untie_embedding

from . import diffusion
from .speech_encoder import load_speech_encoder
from .stage import Run
from .vae import load_vae


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """Weights and configurations by component of a model folder."""

    states: dict[str, dict[str, Tensor]]
    configs: dict[str, dict[str, Any]]


def load_trained_model(
    folder: Path, seed: int, config: Hallo3Config, *, tuned_decoder: bool = True
) -> TrainedModel:
    """The averaged weights in the stages' checkpoints, finished or not; ``tuned_decoder`` as in
    :func:`training.vae.load_vae`."""
    average = Run(folder=folder, name=diffusion.NAME, steps=0, seed=seed).state("average")
    speech: nn.Module = load_speech_encoder(folder).network
    states = {
        "transformer": _select_prefix(average, "transformer."),
        "reference": _select_prefix(average, "reference."),
        "text_encoder": untie_embedding(_select_prefix(average, "text.")),
        "vae": load_vae(folder, seed, config.vae, tuned_decoder=tuned_decoder).network.state_dict(),
        "speech_encoder": speech.state_dict(),
    }
    configs = {
        "transformer": to_dict(config),
        "reference": to_dict(config),
        "text_encoder": {**TEXT_ENCODERS["built-in"], "tokenizer": "words"},
        "vae": to_dict(config.vae),
        "speech_encoder": SPEECH_ENCODERS["built-in"],
    }
    return TrainedModel(states, configs)


def write_model(model: TrainedModel, folder: Path) -> None:
    """Raises ``CheckpointError`` for a value beyond half precision's range."""
    for path in map(ModelFolder(folder).own, COMPONENTS):
        name = path.stem
        _write_halves(path, model.states[name], {"part": name, "config": model.configs[name]})


def write_detector(network: DetectorNetwork, path: Path) -> None:
    """The face detector's file, which :func:`hallo3.face.detector.read_detector` reads. Errors as of
    :func:`write_model`."""
    _write_halves(path, network.state_dict(), {"part": path.stem, "config": asdict(network.config)})


def _write_halves(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    halves = {key: value.to(torch.float16) for key, value in state.items()}
    if wrong := [key for key, value in halves.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(
            "A weight does not fit half precision.",
            found=f"{path.stem}: {wrong[0]}",
            expected="finite numbers below 65504",
            fix="train again with a lower learning rate",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, halves, config)


def _select_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
