"""A model folder -> networks behind residencies. Headers are read at once, weights when first used."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from .audio.encoder import build_wav2vec2
from .config import VAEConfig, from_dict
from .errors import CheckpointError
from .face.analysis import Absent
from .face.choosing import Choice
from .face.spaces import analyzer_for
from .model.reference import ReferenceNetwork
from .model.transformer import Hallo3Transformer
from .model.trunk import Trunk
from .models import Models
from .parts import ARE
from .residency import HOME, Offloaded, Visiting
from .shelves import on_disk, rows_of
from .stored import check_file, model_config, part
from .streaming import Stored, Streamed, in_memory
from .text.encoder import TextEncoder, build_t5, tied
from .text.tokenizer import tokenizer_named
from .vae.codec import VideoVAE, build_vae
from .weights.examine import Examined
from .weights.files import load_strict, look_through, read_part
from .weights.places import ModelFolder
from .weights.precision import PRECISIONS, Precision, filled, precision_of

N = TypeVar("N", bound=Trunk)
T5_VOCABULARY = 32128
"""Tokens where a file does not say how many."""


def load_models(
    folder: Path | ModelFolder,
    device: torch.device,
    numbers: Precision | torch.dtype | str,
    *,
    offload: str = "none",
    examined: Examined | None = None,
    choice: Choice | None = None,
    extract: bool = True,
) -> Models:
    """The networks of a model folder. All headers are checked here; weights load on first use.

    ``numbers`` is a precision, its name (``fp32``, ``bf16``, ``fp16``, ``fp8``) or a torch type.
    ``offload`` says where the weights of transformer and reference network are while they are not
    computed with: on the device with the rest (``none``), in memory (``blocks``), or on disk
    (``disk``). The numbers are equal, but T5 then computes on the CPU. The speech encoder always
    computes in float32, as in the original. ``choice`` says which face of a photograph is meant. With
    ``examined``, files are looked through before their first use: checksums, and numbers that are none.
    Without ``extract`` no identity can be extracted: reference network and face analyzer are not looked for.

    Raises ``CheckpointError`` for missing, foreign or contradicting files, ``FaceError`` when no
    analyzer writes in the model's embedding space.
    """
    files = ModelFolder(folder) if isinstance(folder, Path) else folder
    precision = precision_of(numbers)
    config = model_config(files.transformer)
    if extract:
        other = model_config(files.reference, "reference")
        _same((other.trunk, other.segment), (config.trunk, config.segment), "reference")
    _same(from_dict(VAEConfig, part(files.vae, "vae"), "vae"), config.vae, "vae")
    text, speech = part(files.text_encoder, "text_encoder"), part(files.speech_encoder, "speech_encoder")
    vocabulary = text.get("vocab_size", T5_VOCABULARY)
    tokenizer = tokenizer_named(text.pop("tokenizer", "t5"), vocabulary, files.tokenizer)
    _same(text.get("d_model"), config.trunk.text_dim, "text_encoder")
    heard = speech.get("num_hidden_layers", 12), speech.get("hidden_size", 768)  # transformers' own defaults
    _same(heard, (config.audio.layers, config.audio.channels), "speech_encoder")
    for name in ("transformer", "reference") if extract else ("transformer",):
        check_file(files.find(name), name)
    latent = config.segment.shape.latent
    layers, plain = precision.layers("meta"), Precision(precision.name, precision.compute)

    def read(path: Path, name: str, held_in: Precision) -> dict[str, Tensor]:
        return read_part(path, name, held_in, examined)

    def transformer() -> Hallo3Transformer:
        return whole(Hallo3Transformer(config, layers), "transformer")

    def reference_network() -> ReferenceNetwork:
        return whole(ReferenceNetwork(config.trunk, latent, layers), "reference")

    def whole(network: N, name: str) -> N:
        load_strict(network, filled(network, read(files.find(name), name, precision)), ARE[name])
        return network

    def parted(network: N, name: str) -> Stored[N]:
        if offload == "disk":
            if examined is not None:
                look_through(files.find(name), examined)
            return on_disk(network, files.find(name), name, precision)
        return in_memory(whole(network, name), rows_of(network))

    def vae() -> VideoVAE:
        codec = build_vae(config.vae)
        load_strict(cast(nn.Module, codec.network), read(files.vae, "vae", plain), ARE["vae"])
        return codec

    def text_encoder() -> TextEncoder:
        reader, t5 = tokenizer(), build_t5(text)
        load_strict(t5, tied(read(files.text_encoder, "text_encoder", plain)), "T5's encoder")
        return TextEncoder(reader, t5.to(device if offload == "none" else HOME))

    def speech_encoder() -> nn.Module:
        network = build_wav2vec2(speech)
        load_strict(network, read(files.speech_encoder, "speech_encoder", PRECISIONS["fp32"]), "wav2vec2")
        return network.to(device)

    if offload == "none":
        main: AbstractContextManager[Hallo3Transformer] = Offloaded(transformer, device)
        reference: AbstractContextManager[ReferenceNetwork] = Visiting(lambda: reference_network().to(device))
    else:
        main = Streamed(lambda: parted(Hallo3Transformer(config, layers), "transformer"), device)
        reference = Streamed(
            lambda: parted(ReferenceNetwork(config.trunk, latent, layers), "reference"), device, keep=False
        )
    return Models(
        config=config,
        face=analyzer_for(config.face, files.faces, choice=choice) if extract else Absent(config.face.space),
        speech=Visiting(speech_encoder),
        text=Visiting(text_encoder),
        vae=Offloaded(vae, device),
        reference=reference,
        transformer=main,
    )


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"The {what} file belongs to another model than the transformer.",
            found=str(found),
            expected=str(expected),
            do="use the files of one model folder together",
        )
