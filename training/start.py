"""Begin a run with the networks of a finished model: they train further, on new clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from hallo3.checkpoints.locate import ModelFolder
from hallo3.config import BUILT_IN
from hallo3.face.detector import WEIGHTS

from . import detector, diffusion, speech_encoder, vae
from .optim import WeightAverage
from .stage import Run, Stateful


def begin_run(folder: Path, seed: int, model: Path) -> None:
    """Write the checkpoints that ``clips`` and all stages after it begin with. Transformer, reference network
    and text encoder begin anew if the model's have other sizes. Raises ``FileExistsError`` in the folder of
    another run."""
    if any(folder.glob("*.pt")):
        raise FileExistsError(f"{folder} has checkpoints; begin in another folder")
    speech, faces = speech_encoder.SpeechModel(seed), detector.make_network(seed)
    autoencoder = vae.make_vae(BUILT_IN.vae, seed).network
    speech.network.load_state_dict(read_part(model, "speech_encoder"))
    autoencoder.load_state_dict(read_part(model, "vae"))
    faces.load_state_dict(read_weights(model / WEIGHTS.name))
    begun: dict[str, Mapping[str, Stateful]] = {
        speech_encoder.NAME: {"hearing": speech},
        vae.VAE: {"average": WeightAverage(autoencoder, 0)},
        vae.DECODER: {"average": WeightAverage(autoencoder.decoder, 0)},
        detector.NAME: {"average": WeightAverage(faces, 0)},
    }
    networks = diffusion.Networks(BUILT_IN, seed)
    trained = {
        f"{name}.{key}": value
        for name, part in (("transformer",) * 2, ("reference",) * 2, ("text", "text_encoder"))
        for key, value in read_part(model, part).items()
    }
    own = networks.state_dict()
    if all(own[key].shape == value.shape for key, value in trained.items()):
        networks.load_state_dict(trained, strict=False)  # the text encoder's embedding has two names
        begun[diffusion.START] = {"networks": networks}
    for name, things in begun.items():
        Run(folder=folder, name=name, steps=0, seed=seed).save(0, 0.0, things)


def read_part(model: Path, part: str) -> dict[str, Tensor]:
    return read_weights(ModelFolder(model).own(part))


def read_weights(path: Path) -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(path).items()}
