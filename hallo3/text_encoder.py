"""T5's encoder and its tokenizers: T5's own, words for the built-in model, bytes for random sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .config import TEXT_ENCODERS, check_sizes
from .errors import CheckpointError, DependencyError, sanitize
from .messages import logger
from .storage.files import describe_foreign

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
    """T5's own pieces (facts 16, T5), of ``spiece.model``, which the original publishes, or else of
    ``tokenizer.json``, which others made of it. Marks such as ``</s>`` in a prompt are plain text."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        """Raises ``CheckpointError`` for files that are missing, broken or another model's, and
        ``DependencyError`` without the library that reads them."""
        paths = [folder / name for name in ("spiece.model", "tokenizer.json")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise CheckpointError(
                "T5's tokenizer is missing; prompts need it.",
                found=f"no spiece.model and no tokenizer.json in {folder}",
                expected="the file that came with the T5 text encoder",
                fix="copy it there, or name its folder with --tokenizer",
            )
        self._encode, tokens, marks = _open_pieces(path)
        if tokens > vocabulary or marks != (PAD, END):
            raise CheckpointError(
                "The tokenizer belongs to another model than the text encoder.",
                found=f"{path}: {tokens:,} tokens, padding {marks[0]}, end {marks[1]}",
                expected=f"at most {vocabulary:,} tokens, padding {PAD}, end {END}",
                fix="use the tokenizer's file that came with the T5 text encoder",
            )

    def __call__(self, prompt: str, length: int) -> Tensor:
        return _pad(self._encode(prompt), length)


def _open_pieces(path: Path) -> tuple[Callable[[str], list[int]], int, tuple[object, object]]:
    """A function from text to ids without marks; the number of tokens; the marks of padding and end."""
    content = b""
    try:
        content = path.read_bytes()
        if path.suffix == ".model":
            pieces: Any = import_module("sentencepiece").SentencePieceProcessor()
            pieces.LoadFromSerializedProto(content)
            opened = pieces.EncodeAsIds, int(pieces.GetPieceSize()), (pieces.pad_id(), pieces.eos_id())
        else:
            fast: Any = import_module("tokenizers").Tokenizer.from_buffer(content)
            fast.no_truncation()
            fast.no_padding()
            marks = fast.token_to_id("<pad>"), fast.token_to_id("</s>")

            def encode(text: str) -> list[int]:
                return fast.encode(text, add_special_tokens=False).ids

            opened = encode, int(fast.get_vocab_size()), marks
        opened[0]("A person talks.")
        return opened
    except ImportError as error:
        raise DependencyError(
            "T5's tokenizer needs a library that is not installed.",
            found=f"{path.name}; {str(error).splitlines()[0]}",
            fix=f"pip install {'sentencepiece' if path.suffix == '.model' else 'tokenizers'}",
        ) from error
    except Exception as error:  # the libraries' errors have no common base
        foreign = describe_foreign(content) if content else "an empty file"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            "T5's tokenizer cannot be read.",
            found=f"{path}: {foreign or sanitize(reason)}",
            expected="the file that came with the T5 text encoder",
            fix="download or copy it again",
        ) from error


def make_tokenizer(name: object, vocabulary: int, folder: Path) -> Tokenizer:
    """The tokenizer that a text encoder's file names. ``folder`` has T5's files, the network has a
    ``vocabulary`` of tokens. Raises ``CheckpointError``, for an unknown name too, and ``DependencyError``."""
    factories: dict[str, Callable[[], Tokenizer]] = {
        "t5": lambda: T5Tokenizer(folder, vocabulary),
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
    return factories[str(name)]()


def _pad(ids: list[int], length: int) -> Tensor:
    """Cut ids with a warning, end them and pad them: [1, length]."""
    tokens = len(ids) + 1
    if tokens > length:
        logger.warning(
            f"The prompt has {tokens} tokens; the model reads {length}, the last {tokens - length} are cut."
        )
    ids = [*ids[: length - 1], END]
    return torch.tensor([ids + [PAD] * (length - len(ids))])


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
