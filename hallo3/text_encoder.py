"""T5's encoder and its tokenizers: T5's own, words for the built-in model, bytes for random sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from .config import TEXT_ENCODERS, check_sizes
from .errors import CheckpointError, DependencyError
from .messages import logger

PAD, END, FIRST_BYTE, FIRST_WORD = 0, 1, 3, 2


class Tokenizer(Protocol):
    """Prompt -> ids [1, length], padded; a longer prompt is cut with a warning."""

    def __call__(self, prompt: str, length: int) -> Tensor: ...


class ByteTokenizer:
    """Bytes as tokens, with T5's padding and end marks (the scheme of ByT5)."""

    def __call__(self, prompt: str, length: int) -> Tensor:
        return _pad([byte + FIRST_BYTE for byte in prompt.encode()], length)


@dataclass(frozen=True, slots=True)
class WordTokenizer:
    """Words as tokens, numbered by a hash: for the small built-in text encoder. Ignores case and punctuation;
    different words can share a number."""

    vocabulary: int

    def __call__(self, prompt: str, length: int) -> Tensor:
        return _pad([self.number(word) for word in re.findall(r"\w+", prompt.lower())], length)

    def number(self, word: str) -> int:
        digest = blake2b(word.encode(), digest_size=8).digest()
        return FIRST_WORD + int.from_bytes(digest, "little") % (self.vocabulary - FIRST_WORD)


class T5Tokenizer:
    """The SentencePiece tokenizer in a text encoder's folder (facts 16, T5)."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(
                "The text encoder's tokenizer is missing.",
                found=f"no folder {folder}",
                expected="the tokenizer files that came with the T5 text encoder",
                fix=f"copy spiece.model and tokenizer_config.json (or tokenizer.json) into {folder}",
            )
        from transformers import AutoTokenizer

        try:
            self._tokenizer = cast(Any, AutoTokenizer).from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except ImportError as error:
            raise DependencyError(
                "The T5 tokenizer needs a library that is not installed.",
                found=str(error).splitlines()[0],
                fix="pip install sentencepiece protobuf",
            ) from error
        except (OSError, ValueError) as error:
            raise CheckpointError(
                "The text encoder's tokenizer cannot be read.",
                found=str(error).splitlines()[0],
                expected=f"T5 tokenizer files in {folder}",
                fix="copy the tokenizer files of the T5 text encoder there again",
            ) from error

    def __call__(self, prompt: str, length: int) -> Tensor:
        _warn_if_cut(len(self._tokenizer(prompt)["input_ids"]), length)
        encoded = self._tokenizer(
            prompt, truncation=True, padding="max_length", max_length=length, return_tensors="pt"
        )
        return cast(Tensor, encoded["input_ids"])


def make_tokenizer(name: object, vocabulary: int, folder: Path) -> Callable[[], Tokenizer]:
    """Factory of the tokenizer that a text encoder's file names; ``folder`` is T5's, ``vocabulary`` the
    network's number of tokens. Raises ``CheckpointError`` for an unknown name."""
    factories: dict[str, Callable[[], Tokenizer]] = {
        "t5": lambda: T5Tokenizer(folder),
        "words": lambda: WordTokenizer(vocabulary),
        "bytes": ByteTokenizer,
    }
    if str(name) not in factories:
        raise CheckpointError(
            "The text encoder needs an unknown tokenizer.",
            found=repr(name),
            expected=" or ".join(factories),
            fix="use a text encoder that was written for this version, or update the package",
        )
    return factories[str(name)]


def _pad(ids: list[int], length: int) -> Tensor:
    """Cut ids, end them and pad them: [1, length]."""
    _warn_if_cut(len(ids) + 1, length)
    ids = [*ids[: length - 1], END]
    return torch.tensor([ids + [PAD] * (length - len(ids))])


def _warn_if_cut(tokens: int, length: int) -> None:
    if tokens > length:
        logger.warning(
            f"The prompt has {tokens} tokens; the model reads {length}, the last {tokens - length} are cut."
        )


_TIED = {"encoder.embed_tokens.weight": "shared.weight"}


def tie_embedding(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the embedding's second name to a file's tensors."""
    return {**state, **{alias: state[name] for alias, name in _TIED.items() if name in state}}


def untie_embedding(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the embedding's second name from a network's tensors."""
    return {name: tensor for name, tensor in state.items() if name not in _TIED}


def build_t5(config: Mapping[str, Any]) -> nn.Module:
    """transformers' ``T5EncoderModel`` on the meta device. Raises ``CheckpointError`` for a field that is not
    a size."""
    positions = {"relative_attention_num_buckets", "relative_attention_max_distance"}
    check_sizes(config, {*TEXT_ENCODERS["nano"], *positions, "layer_norm_epsilon"}, "text_encoder")
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        return T5EncoderModel(T5Config(**config, dropout_rate=0.0))


@dataclass(frozen=True, slots=True)
class TextEncoder:
    tokenizer: Tokenizer
    t5: nn.Module

    def encode(self, prompt: str, length: int) -> Tensor:
        """Embedding [1, length, text_dim], padding included."""
        ids = self.tokenizer(prompt, length).to(next(self.t5.parameters()).device)
        return self.t5(input_ids=ids).last_hidden_state
