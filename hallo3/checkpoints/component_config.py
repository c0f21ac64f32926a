"""Stored parts and the networks they are for: a part's sizes, its empty network, and whether they fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from ..config import (
    COMPONENT_TITLES,
    SPEECH_ENCODERS,
    TEXT_ENCODERS,
    Hallo3Config,
    TrunkConfig,
    VAEConfig,
    from_dict,
)
from ..errors import CheckpointError, Hallo3Error
from ..geometry import LatentShape
from ..model.layers import Layers
from ..model.transformer import Hallo3Transformer, ReferenceNetwork
from ..speech.wav2vec2 import build_wav2vec2
from ..text_encoder import build_t5, untie_embedding
from ..vae.autoencoder import build_vae
from .component import StoredComponent, find_component
from .load import check_shapes, get_shapes
from .source import CheckpointSource, borrow_source

META = Layers(device="meta")
RELEASED_CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "reference": {},
    "vae": {},
    "text_encoder": TEXT_ENCODERS["hallo3"],
    "speech_encoder": SPEECH_ENCODERS["hallo3"],
}
"""Sizes of files that say nothing of themselves."""


def build_reference(trunk: TrunkConfig, latent: LatentShape) -> ReferenceNetwork:
    """The reference network without memory."""
    return ReferenceNetwork(trunk, latent, META)


def get_config(found: StoredComponent) -> dict[str, Any]:
    """A part's configuration: its file's, one in a JSON file beside it, or else the released model's."""
    own_config = found.own_config
    if own_config is None:
        return dict(RELEASED_CONFIGS[found.part])
    config: Any = own_config.get("config")
    if "part" not in own_config and isinstance(
        config, Mapping
    ):  # a whole model's, beside the original's files
        whole = cast("Mapping[str, Any]", config)
        config = whole if found.part in ("transformer", "reference") else whole.get(found.part, {})
    if not isinstance(config, Mapping):
        raise CheckpointError(
            "The configuration stored with the weights cannot be used.",
            found=f"{type(config).__name__} in {found.source.path.name}",
            expected="an object with the model's sizes",
            fix="use a file written by `hallo3 convert`",
        )
    return {**RELEASED_CONFIGS[found.part], **cast("Mapping[str, Any]", config)}


def read_json(path: Path) -> dict[str, Any]:
    """A configuration that a user gives. Raises ``CheckpointError``."""
    try:
        fields: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fields = str(error)
    if not isinstance(fields, dict):
        raise CheckpointError(
            "The configuration cannot be read.",
            found=f"{path}: {fields}"[:200],
            expected="a JSON object with the model's sizes",
            fix="give a file like the `config` entry in a converted file's metadata",
        )
    return cast("dict[str, Any]", fields)


def read_component_config(where: Path | CheckpointSource, name: str) -> dict[str, Any]:
    """The configuration of a part in a file or folder.

    Raises ``CheckpointError`` for a file that holds another part, or is no weights file.
    """
    with borrow_source(where) as source:
        return get_config(find_component(source, name))


def read_model_config(where: Path | CheckpointSource, name: str = "transformer") -> Hallo3Config:
    """The configuration of the model that a file holds a part of; the released model's if it says nothing.
    Raises ``CheckpointError``."""
    return from_dict(Hallo3Config, read_component_config(where, name), name)


def build_on_meta(name: str, config: Mapping[str, Any]) -> nn.Module:
    """A part's network without memory. Raises ``CheckpointError`` for a configuration that is none."""
    try:
        return _EMPTY[name](config)
    except Hallo3Error:
        raise
    except Exception as error:  # sizes that contradict each other, in torch's and transformers' own words
        raise CheckpointError(
            "The configuration stored with the weights cannot be used.",
            found=f"{name}: {(str(error).splitlines() or [''])[0][:160]}",
            expected="sizes of which a network can be built",
            fix="use the configuration that belongs to the weights",
        ) from error


def check_fit(found: StoredComponent, config: Mapping[str, Any]) -> None:
    """Refuse a part whose tensors are not those of its configuration, by name and shape alone. Raises
    ``CheckpointError``."""
    network = build_on_meta(found.part, config)
    floating = {name for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    for name in found.assemblies:
        if name in floating and not found.dtype(name).is_floating_point and not found.scaled(name):
            raise CheckpointError(
                f"These weights are not {COMPONENT_TITLES[found.part]}.",
                found=f"{name} of whole numbers, without a scale",
                expected="floating point numbers, or whole ones with their scale",
                fix="use a file in bf16, fp16, fp32 or scaled fp8",
            )
    try:
        check_shapes(
            get_shapes(untie_embedding(network.state_dict())), found.shapes(), COMPONENT_TITLES[found.part]
        )
    except CheckpointError as error:
        if found.own_config is not None:
            raise
        advice = f"{error.fix}; other sizes than the released model's need a hallo3.json beside the file"
        raise CheckpointError(
            error.headline, found=error.found, expected=error.expected, fix=advice
        ) from error


def check_file(where: Path | CheckpointSource, name: str) -> None:
    """Refuse a file of other shapes before anything is loaded from it. Raises ``CheckpointError``."""
    with borrow_source(where) as source:
        found = find_component(source, name)
        check_fit(found, get_config(found))


def _transformer(config: Mapping[str, Any]) -> nn.Module:
    return Hallo3Transformer(from_dict(Hallo3Config, config, "transformer"), META)


def _reference(config: Mapping[str, Any]) -> nn.Module:
    sizes = from_dict(Hallo3Config, config, "reference")
    return build_reference(sizes.trunk, sizes.segment.shape.latent)


def _vae(config: Mapping[str, Any]) -> nn.Module:
    return cast(nn.Module, build_vae(from_dict(VAEConfig, config, "vae")).network)


def _text_encoder(config: Mapping[str, Any]) -> nn.Module:
    return build_t5({name: size for name, size in config.items() if name != "tokenizer"})


_EMPTY: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "transformer": _transformer,
    "reference": _reference,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "speech_encoder": build_wav2vec2,
}
"""Each part's network, without memory, from its configuration."""
