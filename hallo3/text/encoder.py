"""T5's encoder over a padded prompt, without an attention mask: pads take part (facts 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import check_sizes
from .tokenizer import Tokenizer

_SIZES = frozenset(
    [
        "d_model",
        "d_ff",
        "d_kv",
        "num_heads",
        "num_layers",
        "vocab_size",
        "feed_forward_proj",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "layer_norm_epsilon",
    ]
)


_TIED = {"encoder.embed_tokens.weight": "shared.weight"}


def tied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors with the one embedding under both of its names."""
    return {**state, **{alias: state[name] for alias, name in _TIED.items() if name in state}}


def untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors, the embedding once: what a file holds."""
    return {name: tensor for name, tensor in state.items() if name not in _TIED}


def build_t5(config: Mapping[str, Any]) -> nn.Module:
    """transformers' ``T5EncoderModel`` of these sizes, without memory (on the meta device).

    Raises ``CheckpointError`` for a field that is not a size.
    """
    check_sizes(config, _SIZES, "text_encoder")
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        return T5EncoderModel(T5Config(**config, dropout_rate=0.0))


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A tokenizer and the T5 that reads its ids."""

    tokenizer: Tokenizer
    t5: nn.Module

    def encode(self, prompt: str, length: int) -> Tensor:
        """A prompt -> embedding [1, length, text_dim], padding included."""
        ids = self.tokenizer(prompt, length).to(next(self.t5.parameters()).device)
        return self.t5(input_ids=ids).last_hidden_state
