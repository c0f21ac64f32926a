"""A prompt embedding longer than a model's text takes no positions of the video's."""

from __future__ import annotations

import pytest
import torch

from hallo3.config import NANO
from hallo3.errors import ShapeError
from hallo3.model.embeddings import PatchEmbed
from hallo3.model.layers import Layers


@pytest.fixture
def embed() -> PatchEmbed:
    made = PatchEmbed(NANO.trunk, NANO.segment.shape.latent, Layers())
    torch.nn.init.zeros_(made.pos_embedding)
    return made


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("short", [0, 1, 5])
def test_as_many_tokens_as_there_are_are_taken(embed: PatchEmbed, batch: int, short: int) -> None:
    trunk = NANO.trunk
    length = trunk.text_tokens - short
    assert embed.text(torch.zeros(batch, length, trunk.text_dim)).shape == (batch, length, trunk.width)


@pytest.mark.parametrize("more", [1, 7])
def test_more_are_refused(embed: PatchEmbed, more: int) -> None:
    trunk = NANO.trunk
    with pytest.raises(ShapeError, match="prompt embedding") as raised:
        embed.text(torch.zeros(1, trunk.text_tokens + more, trunk.text_dim))
    assert str(trunk.text_tokens + more) in raised.value.found
    assert str(trunk.text_tokens) in raised.value.expected
