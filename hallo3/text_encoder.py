"""T5's encoder and its tokenizers: T5's own, words for the built-in model, bytes for random sets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from .config import TEXT_ENCODERS, check_sizes
from .errors import CheckpointError, DependencyError, InputError, check_docstrings, is_out_of_memory, sanitize
from .messages import logger
from .onnx_model import read_fields
from .storage.files import describe_foreign, open_regular, parse_json_object

PAD, END, FIRST_BYTE, FIRST_WORD = 0, 1, 3, 2
MIN_VOCABULARY = 256 + FIRST_BYTE
MAX_TOKENIZER_BYTES = 16 << 20
"""T5's ``spiece.model`` has 0.8 million, a ``tokenizer.json`` made of it 2.4 million."""
CHARACTERS = "precompiled_charsmap"
STEPS: dict[str, set[str]] = {
    "Sequence": {"normalizers", "pretokenizers"},
    "Precompiled": {CHARACTERS},
    "Strip": {"strip_left", "strip_right"},
    "Replace": {"pattern", "content"},
    "WhitespaceSplit": set(),
    "Metaspace": {"replacement", "prepend_scheme", "split", "add_prefix_space"},
}
"""Of a ``tokenizer.json`` that was made of T5's ``spiece.model``, with their fields."""


def check_prompt(prompt: str) -> None:
    """Raises ``InputError`` for lone surrogates: bytes that were not UTF-8, half an emoji of JSON."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "The prompt is not valid Unicode text.",
            found=f"{prompt[error.start : error.end][:20]!a} at letter {error.start + 1}",
            expected="text in UTF-8",
            fix="type those letters again, or save the file that they come from as UTF-8",
        ) from error


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
        self._path, self._vocabulary = path, vocabulary
        with _explain(path):
            self._encode, tokens, marks = _open_pieces(path, vocabulary)
        if tokens > vocabulary or marks != (PAD, END):
            raise CheckpointError(
                "The tokenizer belongs to another model than the text encoder.",
                found=f"{path}: {tokens:,} tokens, padding {marks[0]}, end {marks[1]}",
                expected=f"at most {vocabulary:,} tokens, padding {PAD}, end {END}",
                fix="use the tokenizer's file that came with the T5 text encoder",
            )

    def __call__(self, prompt: str, length: int) -> Tensor:
        with _explain(self._path):
            ids = self._encode(prompt)
            if not all(0 <= token < self._vocabulary for token in ids):
                raise ValueError(f"a token beyond the {self._vocabulary:,} of the text encoder")
        return _pad(ids, length)


def _open_pieces(
    path: Path, vocabulary: int
) -> tuple[Callable[[str], list[int]], int, tuple[object, object]]:
    """A function from text to ids without marks; the number of tokens; the marks of padding and end. Raises
    ``ValueError`` and the libraries' errors, which have no common base."""
    with open_regular(path) as file:
        content = file.read(MAX_TOKENIZER_BYTES + 1)
    if len(content) > MAX_TOKENIZER_BYTES:
        raise ValueError(f"more than {MAX_TOKENIZER_BYTES:,} bytes")
    if not content or describe_foreign(content):
        raise ValueError(describe_foreign(content) or "an empty file")
    if path.suffix == ".model":
        count = sum(number == 1 for number, _ in read_fields(memoryview(content)))
        if count > vocabulary:
            return (lambda _: []), count, (PAD, END)
        pieces: Any = import_module("sentencepiece").SentencePieceProcessor()
        pieces.LoadFromSerializedProto(content)
        opened = pieces.EncodeAsIds, int(pieces.GetPieceSize()), (pieces.pad_id(), pieces.eos_id())
    else:
        fast: Any = import_module("tokenizers").Tokenizer.from_str(_rebuild_json(content, vocabulary))
        marks = fast.token_to_id("<pad>"), fast.token_to_id("</s>")

        def encode(text: str) -> list[int]:
            return fast.encode(text, add_special_tokens=False).ids

        opened = encode, int(fast.get_vocab_size()), marks
    opened[0]("A person talks.")
    return opened


def _rebuild_json(content: bytes, vocabulary: int) -> str:
    """What of a ``tokenizer.json`` turns a text into T5's tokens, and nothing else of it: tokenizers would
    take any regular expression, model and size. Raises ``ValueError``."""
    for mark, most in ((b"[", vocabulary), (b"{", 0), (b",", 4 * vocabulary)):
        if content.count(mark) > most + 10_000:
            raise ValueError(f"more names and numbers than {vocabulary:,} tokens need")
    fields = parse_json_object(content, strict=True)
    try:
        model: dict[str, Any] = fields["model"]
        added = cast("list[dict[str, Any]]", fields.get("added_tokens") or [])
        if model["type"] != "Unigram":
            raise ValueError(f"a model of type {str(model['type'])[:40]!r}, not Unigram")
        return json.dumps(
            {
                "version": "1.0",
                "added_tokens": [_check_token(token) for token in added],
                "normalizer": _check_step(fields.get("normalizer")),
                "pre_tokenizer": _check_step(fields.get("pre_tokenizer")),
                "model": {
                    "type": "Unigram",
                    "unk_id": int(model["unk_id"]),
                    "vocab": [[_check_text(text), float(score)] for text, score in model["vocab"]],
                    "byte_fallback": bool(model.get("byte_fallback")),
                },
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no tokenizer of T5's form") from error


def _check_text(value: object, most: int = 512) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"no text of at most {most:,} letters where one belongs")
    return value


def _check_token(token: Mapping[str, Any]) -> dict[str, Any]:
    words = "single_word", "lstrip", "rstrip", "normalized", "special"
    flags = {word: bool(token[word]) for word in words}
    return {"id": int(token["id"]), "content": _check_text(token["content"]), **flags}


def _check_step(step: Mapping[str, Any] | None, depth: int = 0) -> dict[str, Any] | None:
    """A step from a text to words. Raises ``ValueError`` for one that T5's tokenizer does not have."""
    if step is None:
        return None
    kind = str(step["type"])[:40]
    known = STEPS.get(kind)
    if known is None or depth > 2:
        raise ValueError(f"a step {kind!r}, which T5's tokenizer does not have")
    checked: dict[str, Any] = {"type": kind}
    for name in known & step.keys():
        value: Any = step[name]
        if name == "pattern":
            regex = {"Regex": " {2,}"}
            checked[name] = regex if value == regex else {"String": _check_text(value["String"], 20)}
        elif isinstance(value, list) and len(steps := cast("list[Any]", value)) <= 8:
            checked[name] = [_check_step(each, depth + 1) for each in steps]
        elif value is None or isinstance(value, bool):
            checked[name] = value
        else:
            checked[name] = _check_text(cast(object, value), 1 << 20 if name == CHARACTERS else 20)
    return checked


@contextmanager
def _explain(path: Path) -> Generator[None]:
    """Raises ``DependencyError`` for a library that is missing, ``CheckpointError`` for what goes wrong with
    the file."""
    try:
        yield
    except ImportError as error:
        raise DependencyError(
            "T5's tokenizer needs a library that is not installed.",
            found=f"{path.name}; {str(error).splitlines()[0]}",
            fix=f"pip install {'sentencepiece' if path.suffix == '.model' else 'tokenizers'}",
        ) from error
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"  # tokenizers', which is no ``Exception``
        if is_out_of_memory(error) or not (panic or isinstance(error, Exception)):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            "T5's tokenizer cannot be read.",
            found=f"{path}: {sanitize(reason)}",
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
    if type(vocabulary) is not int or vocabulary < MIN_VOCABULARY:
        raise CheckpointError(
            "The text encoder's vocabulary is too small.",
            found=repr(vocabulary)[:60],
            expected=f"at least {MIN_VOCABULARY} tokens, one for each byte and three marks",
            fix="use another file of the text encoder",
        )
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
    """transformers' ``T5EncoderModel`` on the meta device. Raises ``CheckpointError`` for a field that it
    should not have, or of another kind."""
    positions = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
    example = {**TEXT_ENCODERS["hallo3"], **positions, "layer_norm_epsilon": 1e-6}
    check_sizes(config, example, "text_encoder", positions.keys())
    check_docstrings()
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        return T5EncoderModel(T5Config(**config, dropout_rate=0.0))


@dataclass(frozen=True, slots=True)
class TextEncoder:
    tokenizer: Tokenizer
    t5: nn.Module

    def encode(self, prompt: str, length: int) -> Tensor:
        """Embedding [1, length, text_dim], padding included. Raises ``InputError``."""
        check_prompt(prompt)
        ids = self.tokenizer(prompt, length).to(next(self.t5.parameters()).device)
        return self.t5(input_ids=ids).last_hidden_state
