"""T5's encoder and its tokenizers: T5's own, words for the built-in model, bytes for random sets.

transformers' ``T5EncoderModel`` has the same parameters and results, and a test holds this one to it. Its
import takes twice the time of everything else that a start imports, for a prompt of one sentence. If it took
0.1 s, it would replace these modules.
"""

from __future__ import annotations

import json
import math
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
from torch.nn import functional as F

from .config import TEXT_ENCODERS, check_sizes
from .errors import CheckpointError, DependencyError, InputError, is_out_of_memory, sanitize
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
BUCKETS, MAX_DISTANCE = 32, 128
POSITIONS = {"relative_attention_num_buckets": BUCKETS, "relative_attention_max_distance": MAX_DISTANCE}
SIZES: dict[str, Any] = {**TEXT_ENCODERS["hallo3"], **POSITIONS, "layer_norm_epsilon": 1e-6}
"""Every field that a file may decide."""
MAX_HALF = torch.finfo(torch.float16).max - 1000


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


class T5Norm(nn.Module):
    """Root mean square, in float32; no mean and no bias."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, hidden: Tensor) -> Tensor:
        variance = hidden.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.eps)).to(self.weight.dtype)


class T5Attention(nn.Module):
    """Scores are not scaled. ``bias`` [1, heads, n, n] is added to them; the first block has it for all."""

    def __init__(self, sizes: Mapping[str, Any], first: bool) -> None:
        super().__init__()
        width, self.heads = sizes["d_model"], sizes["num_heads"]
        inner = self.heads * sizes["d_kv"]
        self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, width, bias=False)
        if first:
            self.relative_attention_bias = _embedding(BUCKETS, self.heads)

    def bias(self, length: int, device: torch.device) -> Tensor:
        """By distance: small ones have buckets of their own, larger ones share them by their logarithm."""
        buckets, exact = BUCKETS // 2, BUCKETS // 4
        places = torch.arange(length, device=device)
        distance = places[None, :] - places[:, None]
        far = torch.log(distance.abs().float() / exact) / math.log(MAX_DISTANCE / exact) * (buckets - exact)
        shared = (exact + far.clamp(min=0).long()).clamp(max=buckets - 1)
        numbers = torch.where(distance.abs() < exact, distance.abs(), shared) + (distance > 0) * buckets
        return self.relative_attention_bias(numbers).permute(2, 0, 1)[None].contiguous()

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        layers = self.q, self.k, self.v
        q, k, v = (layer(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(output.transpose(1, 2).flatten(2))


class T5AttentionHalf(nn.Module):
    def __init__(self, sizes: Mapping[str, Any], first: bool) -> None:
        super().__init__()
        self.SelfAttention = T5Attention(sizes, first)
        self.layer_norm = T5Norm(sizes["d_model"], sizes["layer_norm_epsilon"])

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        return hidden + self.SelfAttention(self.layer_norm(hidden), bias)


class T5MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.wo = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.wo(_gelu(self.wi_0(hidden)) * self.wi_1(hidden))


class T5MLPHalf(nn.Module):
    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.DenseReluDense = T5MLP(sizes["d_model"], sizes["d_ff"])
        self.layer_norm = T5Norm(sizes["d_model"], sizes["layer_norm_epsilon"])

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.DenseReluDense(self.layer_norm(hidden))


class T5Block(nn.Module):
    def __init__(self, sizes: Mapping[str, Any], first: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList((T5AttentionHalf(sizes, first), T5MLPHalf(sizes)))

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        attention, mlp = self.layer
        return _clamp(mlp(_clamp(attention(hidden, bias))))


class T5Stack(nn.Module):
    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = _embedding(sizes["vocab_size"], sizes["d_model"])
        self.block = nn.ModuleList(T5Block(sizes, first=not n) for n in range(sizes["num_layers"]))
        self.final_layer_norm = T5Norm(sizes["d_model"], sizes["layer_norm_epsilon"])

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed_tokens(ids)
        bias = cast(Any, self.block[0]).layer[0].SelfAttention.bias(ids.shape[1], ids.device)
        for block in self.block:
            hidden = block(hidden, bias)
        return self.final_layer_norm(hidden)


class T5(nn.Module):
    """T5 1.1's encoder, under transformers' names, without dropout."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.shared = _embedding(sizes["vocab_size"], sizes["d_model"])
        self.encoder = T5Stack(sizes)

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens [B, n] -> embedding [B, n, d_model]; padding is a token like any other."""
        return self.encoder(ids)


def _gelu(x: Tensor) -> Tensor:
    """As transformers computes it; torch's own approximation rounds otherwise."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Not initialized: on the meta device torch would import its compiler for that, 2 s."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


def _clamp(hidden: Tensor) -> Tensor:
    """Keep half precision, which overflows in T5's large models, from infinity, as transformers does."""
    return hidden.clamp(-MAX_HALF, MAX_HALF) if hidden.dtype == torch.float16 else hidden


def build_t5(config: Mapping[str, Any]) -> T5:
    """On the meta device; what a configuration does not say is the original's. Raises ``CheckpointError`` for
    a field that it should not have, or of another kind."""
    check_sizes(config, SIZES, "text_encoder", POSITIONS.keys())
    with torch.device("meta"):
        return T5(SIZES | dict(config))


@dataclass(frozen=True, slots=True)
class TextEncoder:
    tokenizer: Tokenizer
    t5: nn.Module

    def encode(self, prompt: str, length: int) -> Tensor:
        """Embedding [1, length, text_dim], padding included. Raises ``InputError``."""
        check_prompt(prompt)
        return self.t5(self.tokenizer(prompt, length).to(next(self.t5.parameters()).device))
