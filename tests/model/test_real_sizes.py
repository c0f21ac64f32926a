"""At full size, without memory: our shapes are the released files', through the maps and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.keymaps import KeyMap
from hallo3.config import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.speech.wav2vec2 import build_wav2vec2
from hallo3.text_encoder import build_t5
from hallo3.vae.autoencoder import build_vae
from support.published_names import to_original, to_ours

MANIFEST: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "checkpoint_manifest.json").read_text()
)
META = Layers(device="meta")


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in state.items()}


def on_meta(keys: dict[str, list[int]], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): torch.empty(shape, device="meta")
        for key, shape in keys.items()
        if key.startswith(prefix)
    }


def networks() -> list[tuple[str, nn.Module, KeyMap, dict[str, Tensor], int]]:
    module = MANIFEST["module"]
    reference = ReferenceNetwork(HALLO3.trunk, HALLO3.segment.shape.latent, META)
    return [
        (
            "transformer",
            Hallo3Transformer(HALLO3, META),
            maps.TRANSFORMER,
            on_meta(module, maps.TRANSFORMER_PREFIX),
            3,
        ),
        ("reference", reference, maps.REFERENCE, on_meta(module, maps.REFERENCE_PREFIX), 3),
        ("vae", build_vae(HALLO3.vae).network, maps.VAE, on_meta(MANIFEST["vae"], ""), 0),
    ]


@pytest.mark.parametrize(("name", "network", "keymap", "original", "dropped"), networks())
def test_shapes_and_maps_agree_with_the_manifest(
    name: str, network: nn.Module, keymap: KeyMap, original: dict[str, Tensor], dropped: int
) -> None:
    del name
    ours = to_ours(keymap, original)
    assert shapes(ours) == shapes(network.state_dict())
    without = keymap.dropped(original)
    assert len(without) == dropped
    assert all(without.values())
    back = to_original(keymap, ours)
    assert shapes(back) == {k: s for k, s in shapes(original).items() if k not in without}


def test_the_two_networks_are_the_whole_module() -> None:
    prefixes = (maps.TRANSFORMER_PREFIX, maps.REFERENCE_PREFIX)
    assert all(key.startswith(prefixes) for key in MANIFEST["module"])
    assert len(MANIFEST["module"]) == 2238


def test_text_encoder_is_t5_xxl() -> None:
    assert shapes(build_t5(TEXT_ENCODERS["hallo3"]).state_dict()) == MANIFEST["text_encoder"]


def test_speech_encoder_is_wav2vec2_base() -> None:
    network = build_wav2vec2(SPEECH_ENCODERS["hallo3"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 94_371_712 - 768
    audio = HALLO3.audio
    assert network.config.num_hidden_layers == audio.layers
    assert network.config.hidden_size == audio.channels


def test_derived_numbers_are_the_original_s() -> None:
    latent = HALLO3.segment.shape.latent
    assert latent == (13, 60, 90)
    assert latent.tokens_per_frame == 1350
    assert latent.tokens == 17550
    assert latent.video == HALLO3.segment.shape
    assert HALLO3.segment.new_frames == 47
    assert (HALLO3.trunk.width, HALLO3.trunk.in_channels) == (3072, 32)
    assert (HALLO3.defaults.steps, HALLO3.defaults.guidance_scale) == (50, 3.5)
