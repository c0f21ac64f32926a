"""Load a model folder: headers at once, weights when a network is first used."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .checkpoints.load import (
    check_file,
    load_strict,
    read_component,
    read_component_config,
    read_model_config,
    read_text_encoder_config,
)
from .checkpoints.locate import ModelFolder
from .checkpoints.verify import FileVerifier
from .config import COMPONENT_TITLES, Hallo3Config, SegmentConfig, VAEConfig, from_dict
from .errors import CheckpointError
from .face.analyzer import NoFaceAnalyzer
from .face.registry import create_analyzer
from .face.selection import FaceChoice
from .model.kernels.eager import PLAIN, Kernels
from .model.layers import Attention, sdpa
from .model.transformer import Hallo3Transformer, ReferenceNetwork, Trunk
from .models import Models
from .offload.budget import MemoryPlan
from .offload.placement import MANUAL_OFFLOADS, Placement
from .progress import OpenProgress, no_display
from .quantization import PRECISIONS, Precision, add_missing_scales, check_device, get_precision
from .residency import OffloadedModule, OnDemandModule
from .speech.wav2vec2 import build_wav2vec2
from .text_encoder import TextEncoder, Tokenizer, build_t5, tie_embedding
from .vae.autoencoder import DEFAULT_PLAN, VideoVAE, build_vae
from .vae.causal_conv import DecodePlan

N = TypeVar("N", bound=Trunk)


def load_models(
    folder: Path | ModelFolder,
    device: torch.device,
    precision: Precision | torch.dtype | str,
    *,
    offload: str = "none",
    memory: MemoryPlan | None = None,
    attention: Attention = sdpa,
    kernels: Kernels = PLAIN,
    verifier: FileVerifier | None = None,
    choice: FaceChoice | None = None,
    extract: bool = True,
    segment: SegmentConfig | None = None,
    open_progress: OpenProgress = no_display,
) -> Models:
    """The networks of a model folder. All headers are checked here, those of the text encoder at the first
    prompt; weights load on first use.

    ``precision`` is also a name (``fp32``, ``bf16``, ``fp16``, ``fp8``) or a torch type; the speech encoder
    computes in float32, as in the original. ``offload`` says where the weights of transformer and reference
    network are while they are not used: on the device (``none``), in RAM (``blocks``) or on disk (``disk``);
    results are equal. A ``memory`` plan replaces it, and plans the decoder too. ``choice`` selects a face of
    a photograph. A ``verifier`` checks files before their first use: checksums, NaN. Without ``extract``,
    reference network and face analyzer are not needed, and no identity can be extracted. A ``segment`` is a
    smaller canvas, or fewer frames, than the model's own. ``open_progress`` shows the bytes of weights that
    are read, and that prepare a run.

    Raises ``CheckpointError`` for missing, foreign or contradicting files, ``FaceError`` if no analyzer has
    the model's embedding space, ``InputError`` for a device that does not support the precision,
    ``ShapeError`` for a segment larger than the model's.
    """
    files = ModelFolder(folder) if isinstance(folder, Path) else folder
    files = files if segment is None else replace(files, segment=segment)
    precision = get_precision(precision)
    check_device(precision, device)
    config = read_model_config(files.open("transformer"))
    if extract:
        other = read_model_config(files.open("reference"), "reference")
        _check_equal("reference", (other.trunk, other.segment), (config.trunk, config.segment))
    _check_equal(
        "vae", from_dict(VAEConfig, read_component_config(files.open("vae"), "vae"), "vae"), config.vae
    )
    speech = read_component_config(files.open("speech_encoder"), "speech_encoder")
    sizes = speech.get("num_hidden_layers", 12), speech.get("hidden_size", 768)  # transformers' defaults
    _check_equal("speech_encoder", sizes, (config.audio.layers, config.audio.channels))
    for name in ("transformer", "reference") if extract else ("transformer",):
        check_file(files.open(name), name)
    latent, unquantized = config.segment.shape.latent, Precision(precision.name, precision.compute)
    layers = replace(precision.layers("meta"), attention=attention, kernels=kernels)

    def read(name: str, precision: Precision) -> dict[str, Tensor]:
        return read_component(files.open(name), name, precision, verifier, open_progress)

    build_transformer = partial(Hallo3Transformer, config, layers)
    build_reference = partial(ReferenceNetwork, config.trunk, latent, layers)

    def load_trunk(network: N, name: str) -> N:
        load_strict(network, add_missing_scales(network, read(name, precision)), COMPONENT_TITLES[name])
        return network

    def load_vae(decode: DecodePlan) -> VideoVAE:
        vae = build_vae(config.vae, decode)
        load_strict(cast(nn.Module, vae.network), read("vae", unquantized), COMPONENT_TITLES["vae"])
        return vae

    @cache
    def text() -> tuple[dict[str, Any], Tokenizer]:
        """At the first prompt: others need no T5."""
        with open_progress("reading the tokenizer", 0):
            return read_text_encoder(files, config)

    def load_text_encoder() -> TextEncoder:
        sizes, tokenizer = text()
        t5 = build_t5(sizes)
        load_strict(t5, tie_embedding(read("text_encoder", unquantized)), "T5's encoder")
        return TextEncoder(tokenizer, t5.to(device))

    def load_speech_encoder() -> nn.Module:
        network = build_wav2vec2(speech)
        load_strict(network, read("speech_encoder", PRECISIONS["fp32"]), "wav2vec2")
        return network.to(device)

    models = partial(
        Models,
        config=config,
        face=create_analyzer(config.face, files.faces, choice=choice)
        if extract
        else NoFaceAnalyzer(config.face.space),
        speech=OnDemandModule(load_speech_encoder),
        open_progress=open_progress,
    )
    if memory is None and offload == "none":
        return models(
            text=OnDemandModule(load_text_encoder),
            vae=OffloadedModule(lambda: load_vae(DEFAULT_PLAN), device),
            reference=OnDemandModule(lambda: load_trunk(build_reference(), "reference").to(device)),
            transformer=OffloadedModule(lambda: load_trunk(build_transformer(), "transformer"), device),
        )
    placed = MANUAL_OFFLOADS[offload] if memory is None else memory.offload
    if memory is None and device.type == "cpu":  # there is one memory: strips would save nothing
        placed = replace(placed, decode=DEFAULT_PLAN)
    placement = Placement(
        files=files,
        device=device,
        precision=precision,
        verifier=verifier,
        config=placed,
        open_progress=open_progress,
    )
    return models(
        text=placement.text(lambda: text()[1], lambda: build_t5(text()[0])),
        vae=placement.vae(lambda: load_vae(placed.decode)),
        reference=placement.reference(build_reference),
        transformer=placement.transformer(build_transformer),
    )


def read_text_encoder(files: ModelFolder, config: Hallo3Config) -> tuple[dict[str, Any], Tokenizer]:
    """What a prompt needs, small and first: T5's sizes, and its tokenizer, tried. Raises ``CheckpointError``
    and ``DependencyError``."""
    sizes, tokenizer = read_text_encoder_config(files.open("text_encoder"), files.find("tokenizer"))
    _check_equal("text_encoder", sizes.get("d_model"), config.trunk.text_dim)
    check_file(files.open("text_encoder"), "text_encoder")
    return sizes, tokenizer


def _check_equal(name: str, found: object, expected: object) -> None:
    if found != expected:
        raise CheckpointError(
            f"The {name} file belongs to another model than the transformer.",
            found=str(found),
            expected=str(expected),
            fix="use the files of one model folder together",
        )
