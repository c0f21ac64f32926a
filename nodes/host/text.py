"""The built-in model's text encoder as ComfyUI's CLIP: whole words, T5 in float32, no prompt is no text."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import comfy.sd
import torch
from torch import Tensor, nn

from ...hallo3.built_in import FOLDER
from ...hallo3.stored import model_config, part
from ...hallo3.text.encoder import build_t5, tied
from ...hallo3.text.tokenizer import Tokenizer, tokenizer_named
from ...hallo3.weights.files import load_strict, read_state
from ...hallo3.weights.places import ModelFolder
from .said import warnings_shown

TOKENS = "hallo3"
"""Key of what is tokenized: rows of (token, weight), none for an empty prompt."""
Rows = list[list[tuple[Any, ...]]]


class Words:
    """ComfyUI's tokenizer object. Weights, as in ``(word:1.2)``, are not read."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, Rows]:
        """A prompt's tokens; too long a prompt is cut, and the user told."""
        if not text.strip():
            return {TOKENS: []}
        with warnings_shown():
            found: list[int] = self._tokenizer(text, self._length)[0].tolist()
        return {TOKENS: [[(token, 1.0, n)[: 2 + return_word_ids] for n, token in enumerate(found, 1)]]}

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing to save: a word's letters decide its number."""
        return {}


class Network(nn.Module):
    """ComfyUI's text encoder object around T5; it has no layers or projections to choose from."""

    dtypes = frozenset([torch.float32])

    def __init__(self, sizes: Mapping[str, Any], state: dict[str, Tensor], length: int) -> None:
        super().__init__()
        self.t5: Any = build_t5(sizes)
        load_strict(self.t5, tied(state), "the built-in text encoder")
        self._empty = length, int(sizes["d_model"])

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Nothing of it concerns T5."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""

    def encode_token_weights(self, tokens: dict[str, Rows]) -> tuple[Tensor, None]:
        """Tokens -> embedding [1, length, text_dim], zeros for an empty prompt; nothing is pooled."""
        home, rows = mm.intermediate_device(), tokens[TOKENS]
        if not rows:
            return torch.zeros(1, *self._empty, device=home), None
        ids = torch.tensor([[token[0] for token in row] for row in rows])
        states: Tensor = self.t5(input_ids=ids.to(next(self.t5.parameters()).device)).last_hidden_state
        return states.flatten(0, 1)[None].to(home), None


def built_in_text_encoder() -> Any:
    """The built-in model's text encoder, a CLIP for CLIP Text Encode (Prompt) and its like."""
    files = ModelFolder(FOLDER)
    sizes, length = (
        part(files.text_encoder, "text_encoder"),
        model_config(files.transformer).trunk.text_tokens,
    )
    tokenizer = tokenizer_named(sizes.pop("tokenizer"), sizes["vocab_size"], FOLDER)
    network = Network(sizes, read_state(files.text_encoder, torch.float32), length)
    words = Words(tokenizer(), length)
    target = SimpleNamespace(params={}, clip=lambda **_: network, tokenizer=lambda **_: words)
    return comfy.sd.CLIP(target, model_options={"dtype": torch.float32}, disable_dynamic=True)
