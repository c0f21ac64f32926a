"""A model folder -> networks behind residencies. Headers are read at once, weights when first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from .audio.encoder import build_wav2vec2
from .config import Hallo3Config, TrunkConfig, VAEConfig, from_dict
from .errors import CheckpointError
from .face.spaces import analyzer_for
from .model.reference import ReferenceNetwork
from .model.transformer import Hallo3Transformer
from .models import Models
from .ops import Layers
from .residency import Offloaded, Visiting
from .shapes import LatentShape
from .text.encoder import TextEncoder, build_t5, tied
from .text.tokenizer import tokenizer_named
from .vae.codec import VideoVAE, build_vae
from .weights.files import load_strict, read_config, read_state

N = TypeVar("N", bound=nn.Module)

TOKENIZER_FOLDER = "tokenizer"
T5_VOCABULARY = 32128
"""Tokens where a file does not say how many."""
META = Layers(device="meta")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The fixed layout of a model on disk; every file has its configuration in its metadata."""

    path: Path

    @property
    def transformer(self) -> Path:
        return self.path / "transformer.safetensors"

    @property
    def reference(self) -> Path:
        return self.path / "reference.safetensors"

    @property
    def vae(self) -> Path:
        return self.path / "vae.safetensors"

    @property
    def text_encoder(self) -> Path:
        return self.path / "text_encoder.safetensors"

    @property
    def speech_encoder(self) -> Path:
        return self.path / "speech_encoder.safetensors"

    def all(self) -> tuple[Path, ...]:
        """The five files."""
        return self.transformer, self.reference, self.vae, self.text_encoder, self.speech_encoder

    def config(self) -> Hallo3Config:
        """The model's configuration, from the transformer's header. Raises ``CheckpointError``."""
        return from_dict(Hallo3Config, part(self.transformer, "transformer"), "transformer")


def load_models(folder: Path, device: torch.device, dtype: torch.dtype) -> Models:
    """The networks of a model folder. All headers are checked here; weights load on first use.

    ``dtype`` is the type to compute in; the speech encoder is always float32, as in the original.

    Raises ``CheckpointError`` for missing, foreign or contradicting files, ``FaceError`` when no analyzer
    writes in the model's embedding space.
    """
    files = ModelFolder(folder)
    config = files.config()
    reference = from_dict(Hallo3Config, part(files.reference, "reference"), "reference")
    _same((reference.trunk, reference.segment), (config.trunk, config.segment), "reference")
    _same(from_dict(VAEConfig, part(files.vae, "vae"), "vae"), config.vae, "vae")
    text, speech = part(files.text_encoder, "text_encoder"), part(files.speech_encoder, "speech_encoder")
    vocabulary = text.get("vocab_size", T5_VOCABULARY)
    tokenizer = tokenizer_named(text.pop("tokenizer", "t5"), vocabulary, folder / TOKENIZER_FOLDER)
    _same(text.get("d_model"), config.trunk.text_dim, "text_encoder")
    heard = speech.get("num_hidden_layers"), speech.get("hidden_size")
    _same(heard, (config.audio.layers, config.audio.channels), "speech_encoder")
    latent = config.segment.shape.latent

    def visiting(build: Callable[[], N], path: Path, dtype: torch.dtype) -> Visiting[N]:
        return Visiting(lambda: _loaded(build(), path, dtype).to(device))

    def text_encoder() -> TextEncoder:
        reader, t5 = tokenizer(), build_t5(text)
        load_strict(t5, tied(read_state(files.text_encoder, dtype)), "T5's encoder")
        return TextEncoder(reader, t5.to(device))

    return Models(
        config=config,
        face=analyzer_for(config.face),
        speech=visiting(lambda: build_wav2vec2(speech), files.speech_encoder, torch.float32),
        text=Visiting(text_encoder),
        vae=Offloaded(lambda: _loaded_vae(config.vae, files.vae, dtype), device),
        reference=visiting(lambda: build_reference(config.trunk, latent), files.reference, dtype),
        transformer=Offloaded(
            lambda: _loaded(Hallo3Transformer(config, META), files.transformer, dtype), device
        ),
    )


def build_reference(trunk: TrunkConfig, latent: LatentShape) -> ReferenceNetwork:
    """The reference network without memory."""
    return ReferenceNetwork(trunk, latent, META)


def part(path: Path, name: str) -> dict[str, Any]:
    """The configuration in a file's header, if the file is that part of a model folder."""
    return part_config(read_config(path), name, path.name)


def part_config(header: Mapping[str, Any], name: str, file: str) -> dict[str, Any]:
    """The configuration that a header stores for a part. Raises ``CheckpointError`` for another part."""
    if header.get("part") != name or not isinstance(header.get("config"), Mapping):
        raise CheckpointError(
            "This file is another part of the model than is wanted here.",
            found=f"{file} holds {header.get('part')!r}",
            expected=repr(name),
            do="choose the file that holds it; in a model folder every file keeps its name",
        )
    return dict(cast("Mapping[str, Any]", header["config"]))


def _loaded(network: N, path: Path, dtype: torch.dtype) -> N:
    load_strict(network, read_state(path, dtype), path.stem)
    return network


def _loaded_vae(config: VAEConfig, path: Path, dtype: torch.dtype) -> VideoVAE:
    vae = build_vae(config)
    load_strict(cast(nn.Module, vae.network), read_state(path, dtype), path.stem)
    return vae


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"The {what} file belongs to another model than the transformer.",
            found=str(found),
            expected=str(expected),
            do="use the files of one model folder together",
        )
