"""A model folder -> networks behind residencies. Headers are read at once, weights when first used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .checkpoints.component_config import check_file, read_component_config, read_model_config
from .checkpoints.load import load_strict, read_component
from .checkpoints.locate import ModelFolder
from .checkpoints.verify import FileVerifier
from .config import COMPONENT_TITLES, VAEConfig, from_dict
from .errors import CheckpointError
from .face.analyzer import NoFaceAnalyzer
from .face.registry import create_analyzer
from .face.selection import FaceChoice
from .model.kernels.eager import PLAIN, Kernels
from .model.layers import Attention, sdpa
from .model.transformer import Hallo3Transformer, ReferenceNetwork, Trunk
from .models import Models
from .offload.budget import MemoryPlan
from .offload.estimate import OffloadConfig
from .offload.placement import OFFLOADS, Placement
from .quantization.precision import (
    PRECISIONS,
    Precision,
    add_missing_scales,
    as_precision,
    check_device,
)
from .residency import OffloadedModule, OnDemandModule
from .speech.wav2vec2 import build_wav2vec2
from .text_encoder import TextEncoder, build_t5, make_tokenizer, tie_embedding
from .vae.autoencoder import WHOLE, VideoVAE, build_vae

N = TypeVar("N", bound=Trunk)
T5_VOCABULARY = 32128
"""Tokens where a file does not say how many."""


def load_models(
    folder: Path | ModelFolder,
    device: torch.device,
    numbers: Precision | torch.dtype | str,
    *,
    offload: str = "none",
    memory: MemoryPlan | None = None,
    attention: Attention = sdpa,
    kernels: Kernels = PLAIN,
    examined: FileVerifier | None = None,
    choice: FaceChoice | None = None,
    extract: bool = True,
) -> Models:
    """The networks of a model folder. All headers are checked here; weights load on first use.

    ``numbers`` is a precision, its name (``fp32``, ``bf16``, ``fp16``, ``fp8``) or a torch type.
    ``offload`` says where the weights of transformer and reference network are while they are not
    computed with: on the device with the rest (``none``), in memory (``blocks``), or on disk
    (``disk``); the numbers are equal. A ``memory`` plan decides it instead, and how a video is
    decoded. The speech encoder always computes in float32, as in the original. Transformer and reference
    network attend by ``attention`` and compute with ``kernels``.
    ``choice`` says which face of a photograph is meant. With ``examined``, files are looked through before
    their first use: checksums, and numbers that are none. Without ``extract`` no identity can be extracted:
    reference network and face analyzer are not looked for.

    Raises ``CheckpointError`` for missing, foreign or contradicting files, ``FaceError`` when no
    analyzer writes in the model's embedding space, ``InputError`` for a device that cannot multiply so.
    """
    files = ModelFolder(folder) if isinstance(folder, Path) else folder
    precision = as_precision(numbers)
    check_device(precision, device)
    config = read_model_config(files.transformer)
    if extract:
        other = read_model_config(files.reference, "reference")
        _same((other.trunk, other.segment), (config.trunk, config.segment), "reference")
    _same(from_dict(VAEConfig, read_component_config(files.vae, "vae"), "vae"), config.vae, "vae")
    text, speech = (
        read_component_config(files.text_encoder, "text_encoder"),
        read_component_config(files.speech_encoder, "speech_encoder"),
    )
    vocabulary = text.get("vocab_size", T5_VOCABULARY)
    tokenizer = make_tokenizer(text.pop("tokenizer", "t5"), vocabulary, files.tokenizer)
    _same(text.get("d_model"), config.trunk.text_dim, "text_encoder")
    heard = speech.get("num_hidden_layers", 12), speech.get("hidden_size", 768)  # transformers' own defaults
    _same(heard, (config.audio.layers, config.audio.channels), "speech_encoder")
    for name in ("transformer", "reference") if extract else ("transformer",):
        check_file(files.find(name), name)
    latent = config.segment.shape.latent
    plain = Precision(precision.name, precision.compute)
    layers = replace(precision.layers("meta"), attention=attention, kernels=kernels)

    def read(path: Path, name: str, held_in: Precision) -> dict[str, Tensor]:
        return read_component(path, name, held_in, examined)

    def transformer() -> Hallo3Transformer:
        return Hallo3Transformer(config, layers)

    def reference_network() -> ReferenceNetwork:
        return ReferenceNetwork(config.trunk, latent, layers)

    def whole(network: N, name: str) -> N:
        load_strict(
            network,
            add_missing_scales(network, read(files.find(name), name, precision)),
            COMPONENT_TITLES[name],
        )
        return network

    arrangement = _arranged(offload, memory, device)

    def vae() -> VideoVAE:
        codec = build_vae(config.vae, arrangement.decode if arrangement else WHOLE)
        load_strict(cast(nn.Module, codec.network), read(files.vae, "vae", plain), COMPONENT_TITLES["vae"])
        return codec

    def text_encoder() -> TextEncoder:
        reader, t5 = tokenizer(), build_t5(text)
        load_strict(t5, tie_embedding(read(files.text_encoder, "text_encoder", plain)), "T5's encoder")
        return TextEncoder(reader, t5.to(device))

    def speech_encoder() -> nn.Module:
        network = build_wav2vec2(speech)
        load_strict(network, read(files.speech_encoder, "speech_encoder", PRECISIONS["fp32"]), "wav2vec2")
        return network.to(device)

    stands: tuple[Any, Any, Any, Any]
    if arrangement is None:
        stands = (
            OnDemandModule(text_encoder),
            OffloadedModule(vae, device),
            OnDemandModule(lambda: whole(reference_network(), "reference").to(device)),
            OffloadedModule(lambda: whole(transformer(), "transformer"), device),
        )
    else:
        homes = Placement(
            files=files,
            device=device,
            precision=precision,
            examined=examined,
            arrangement=arrangement,
        )
        stands = (
            homes.text(tokenizer, lambda: build_t5(text)),
            homes.vae(vae),
            homes.once(reference_network, "reference"),
            homes.transformer(transformer),
        )
    return Models(
        config=config,
        face=create_analyzer(config.face, files.faces, choice=choice)
        if extract
        else NoFaceAnalyzer(config.face.space),
        speech=OnDemandModule(speech_encoder),
        text=stands[0],
        vae=stands[1],
        reference=stands[2],
        transformer=stands[3],
    )


def _arranged(offload: str, memory: MemoryPlan | None, device: torch.device) -> OffloadConfig | None:
    """A plan's arrangement, or an offload's; None where all is in place."""
    if memory is not None:
        return memory.arrangement
    if offload == "none":
        return None
    by_hand = OFFLOADS[offload]
    return replace(by_hand, decode=WHOLE) if device.type == "cpu" else by_hand


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"The {what} file belongs to another model than the transformer.",
            found=str(found),
            expected=str(expected),
            fix="use the files of one model folder together",
        )
