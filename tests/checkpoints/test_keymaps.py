"""The laws of the maps, for any number of layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.keymaps import KeyMap, drop, rename, split
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import NANO
from hallo3.errors import CheckpointError
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.vae.autoencoder import build_vae

META = Layers(device="meta")


def ours(layers: int) -> list[tuple[KeyMap, dict[str, Tensor]]]:
    config = replace(NANO, trunk=replace(NANO.trunk, layers=layers))
    latent = config.segment.shape.latent
    return [
        (maps.TRANSFORMER, make_random_state(Hallo3Transformer(config, META), "map")),
        (maps.REFERENCE, make_random_state(ReferenceNetwork(config.trunk, latent, META), "map")),
        (maps.VAE, make_random_state(build_vae(config.vae).network, "map")),
    ]


@settings(max_examples=8, deadline=None)
@given(layers=st.integers(1, 60), shuffle=st.randoms(use_true_random=False))
def test_there_and_back_is_the_identity(layers: int, shuffle) -> None:
    for keymap, state in ours(layers):
        original = list(keymap.to_original(state).items())
        shuffle.shuffle(original)
        back = keymap.to_ours(dict(original))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)
        again = keymap.to_original(back)
        assert all(torch.equal(again[key], tensor) for key, tensor in original)


def test_fused_rows_land_where_the_original_reads_them() -> None:
    """Fused qkv rows are q, k, v; of twelve modulation chunks, ours take 0-2 and 6-8, 3-5 and 9-11."""
    qkv, chunks = torch.arange(6.0), torch.arange(12.0)
    found = maps.TRANSFORMER.to_ours(
        {
            "transformer.layers.4.attention.query_key_value.bias": qkv,
            "mixins.adaln_layer.adaLN_modulations.4.1.bias": chunks,
            "transformer.layers.4.face_attn.key_value.bias": torch.arange(4.0),
        }
    )
    block = "transformer_blocks.4."
    assert found[block + "attn1.to_k.bias"].tolist() == [2, 3]
    assert found[block + "norm1.linear.bias"].tolist() == [0, 1, 2, 6, 7, 8]
    assert found[block + "norm2.linear.bias"].tolist() == [3, 4, 5, 9, 10, 11]
    assert found[block + "attn_face.to_v.bias"].tolist() == [2, 3]


@pytest.mark.parametrize("key", ["mixins.unheard_of", "transformer.layers.x.input_layernorm.weight", ""])
def test_a_key_no_rule_knows_is_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match="exactly one rule"):
        maps.TRANSFORMER.to_ours({key: torch.zeros(1)})


def test_the_reference_network_has_no_face() -> None:
    with pytest.raises(CheckpointError, match="face_attn"):
        maps.REFERENCE.to_ours({"transformer.layers.0.face_attn.query.weight": torch.zeros(1)})


def test_an_incomplete_fusion_is_refused() -> None:
    with pytest.raises(CheckpointError, match="to_v"):
        maps.REFERENCE.to_original({"transformer_blocks.0.attn1.to_q.bias": torch.zeros(2)})


def test_pieces_must_be_equal_and_all_used() -> None:
    keymap = KeyMap("a test", (split("a", 3, {"b": (0,), "c": (1, 2)}),))
    with pytest.raises(CheckpointError, match="3 equal pieces"):
        keymap.to_ours({"a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="3 equal pieces"):
        keymap.to_ours({"a": torch.zeros(4)})
    with pytest.raises(ValueError, match="every one"):
        split("a", 3, {"b": (0,), "c": (1,)})


def test_two_rules_for_a_key_are_refused() -> None:
    keymap = KeyMap("a test", (rename("a.{p}", "b.{p}"), drop("a.weight", "twice")))
    with pytest.raises(CheckpointError, match="exactly one rule"):
        keymap.to_ours({"a.weight": torch.zeros(1)})
