"""A prompt embedding that is longer than a model's text would take positions of the video."""

from __future__ import annotations

import pytest
import torch

from hallo3.config import NANO
from hallo3.errors import ShapeError
from hallo3.model.embeddings import PatchEmbed
from hallo3.model.layers import Layers


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("more", [-5, 0, 1])
def test_a_prompt_embedding_fits_the_text(batch: int, more: int) -> None:
    trunk = NANO.trunk
    embed, length = PatchEmbed(trunk, NANO.segment.shape.latent, Layers()), trunk.text_tokens + more
    prompt = torch.zeros(batch, length, trunk.text_dim)
    if more <= 0:
        assert embed.text(prompt).shape == (batch, length, trunk.width)
        return
    with pytest.raises(ShapeError, match="prompt embedding") as raised:
        embed.text(prompt)
    assert str(length) in raised.value.found
    assert str(trunk.text_tokens) in raised.value.expected
