"""The laws of the tables, for any number of layers."""

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hallo3.checkpoints import keymaps
from hallo3.checkpoints.keymaps import KeyMap, Split
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import NANO
from hallo3.errors import CheckpointError
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.vae.autoencoder import build_vae
from support.original_checkpoints import to_original, to_ours

META = Layers(device="meta")


def ours(layers: int) -> list[tuple[KeyMap, dict[str, Tensor]]]:
    config = replace(NANO, trunk=replace(NANO.trunk, layers=layers))
    latent = config.segment.shape.latent
    return [
        (keymaps.TRANSFORMER, make_random_state(Hallo3Transformer(config, META), "map")),
        (keymaps.REFERENCE, make_random_state(ReferenceNetwork(config.trunk, latent, META), "map")),
        (keymaps.VAE, make_random_state(build_vae(config.vae).network, "map")),
    ]


@settings(max_examples=8, deadline=None)
@given(layers=st.integers(1, 60), shuffle=st.randoms(use_true_random=False))
def test_there_and_back_is_the_identity(layers: int, shuffle: Random) -> None:
    """So every rule keeps every number, and no two rules make the same tensor. Where fused rows land, the
    goldens of both networks show: their weights are loaded through these tables."""
    for table, state in ours(layers):
        original = list(to_original(table, state).items())
        shuffle.shuffle(original)
        back = to_ours(table, dict(original))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)


def test_keys_without_a_rule_and_unequal_pieces_are_refused() -> None:
    split = KeyMap("a test", {"a": Split(3, {"b": (0,), "c": (1, 2)})})
    for table, key, rows, message in (
        (keymaps.TRANSFORMER, "mixins.unheard_of", 1, "a key that a rule knows"),
        (keymaps.TRANSFORMER, "transformer.layers.x.input_layernorm.weight", 1, "a key that a rule knows"),
        (keymaps.TRANSFORMER, "", 1, "a key that a rule knows"),
        (keymaps.REFERENCE, "transformer.layers.0.face_attn.query.weight", 1, "a key that a rule knows"),
        (split, "a", 2, "3 equal pieces"),
        (split, "a", 4, "3 equal pieces"),
    ):
        with pytest.raises(CheckpointError, match=message):
            table.assemble({key: (rows,)})
