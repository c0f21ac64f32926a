"""Words and pieces as tokens: what counts, what does not, and what is cut."""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import CheckpointError, DependencyError
from hallo3.speech.wav2vec2 import build_wav2vec2
from hallo3.text_encoder import (
    END,
    FIRST_WORD,
    PAD,
    ByteTokenizer,
    WordTokenizer,
    build_t5,
    make_tokenizer,
    tie_embedding,
)
from support.messages import expect_message
from support.own_process import measure_growth
from support.sentencepiece_model import sentencepiece_model

LENGTH = 16
TOKENIZER = WordTokenizer(2048)
NUMBERS = [347, 1342, 1694]


def ids(prompt: str) -> list[int]:
    return TOKENIZER(prompt, LENGTH)[0].tolist()


def test_words_then_the_end_then_padding() -> None:
    found = ids("a person talks")
    assert TOKENIZER("a person talks", LENGTH).shape == (1, LENGTH)
    assert TOKENIZER("a person talks", LENGTH).dtype == torch.int64
    assert found[:3] == [TOKENIZER.number(word) for word in ("a", "person", "talks")]
    assert found[3:] == [END] + [PAD] * 12
    assert ids("") == [END] + [PAD] * 15


def test_case_and_punctuation_do_not_count_but_order_does() -> None:
    assert ids("A person, talking -- to the CAMERA!") == ids("a person talking to the camera")
    assert ids("  warm \n light ") == ids("warm light") != ids("light warm")


def test_a_word_is_the_same_number_everywhere() -> None:
    """The weights were trained on these numbers."""
    assert [TOKENIZER.number(word) for word in ("warm", "light", "größe")] == NUMBERS


@given(st.text(max_size=40), st.sampled_from([3, 64, 2048]))
def test_every_token_is_in_the_vocabulary(prompt: str, vocabulary: int) -> None:
    found = WordTokenizer(vocabulary)(prompt, 64)
    assert found.shape == (1, 64)
    assert 0 <= int(found.min()) <= int(found.max()) < vocabulary
    words = found[0, : found[0].tolist().index(END)]
    assert words.numel() == 0 or int(words.min()) >= FIRST_WORD


def test_too_long_a_prompt_is_cut_with_a_warning() -> None:
    prompt = " ".join(f"word{n}" for n in range(LENGTH))
    with expect_message(r"17 tokens; the model reads 16, the last 1 are cut"):
        cut = ids(prompt)
    assert cut == [*(TOKENIZER.number(f"word{n}") for n in range(LENGTH - 1)), END]
    assert ids(" ".join(prompt.split()[:-1])) == cut


def test_a_file_names_its_tokenizer(tmp_path: Path) -> None:
    assert make_tokenizer("words", 384, tmp_path) == WordTokenizer(384)
    assert isinstance(make_tokenizer("bytes", 384, tmp_path), ByteTokenizer)


@pytest.mark.parametrize("name", ["syllables", "", None, ["words"]])
def test_an_unknown_tokenizer_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(CheckpointError, match="t5 or words or bytes"):
        make_tokenizer(name, 384, tmp_path)
    for vocabulary in (258, 1e9, "384", None):
        with pytest.raises(CheckpointError, match="vocabulary is too small"):
            make_tokenizer("words", vocabulary, tmp_path)


MODEL = sentencepiece_model()
PROMPTS = ("a person talks", "  warm   light, äöü 日本 ", "", "smiles " * 20)


def test_t5_s_pieces_are_those_of_transformers(tmp_path: Path) -> None:
    """Of spiece.model, and of the tokenizer.json that transformers makes of it."""
    (tmp_path / "spiece.model").write_bytes(MODEL)
    theirs: Any = AutoTokenizer.from_pretrained(str(tmp_path), tokenizer_type="t5")
    theirs.save_pretrained(str(tmp_path / "fast"))
    (tmp_path / "fast/spiece.model").unlink(missing_ok=True)
    wanted = [theirs(text, truncation=True, padding="max_length", max_length=LENGTH) for text in PROMPTS]
    for folder in (tmp_path, tmp_path / "fast"):
        tokenizer = make_tokenizer("t5", 32128, folder)
        found = [tokenizer(text, LENGTH)[0].tolist() for text in PROMPTS[:-1]]
        with expect_message("last .* are cut"):
            found.append(tokenizer(PROMPTS[-1], LENGTH)[0].tolist())
        assert found == [each["input_ids"] for each in wanted]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("README.md", b"T5", "no spiece.model and no tokenizer.json in .*\n.*\n.*--tokenizer"),
        ("spiece.model", b"", "an empty file"),
        ("spiece.model", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("spiece.model", b"<!doctype html>", "a web page"),
        ("spiece.model", MODEL[:99_999], "beyond the end"),
        ("spiece.model", b"\n\x00" * 32_129, "32,129 tokens"),
        ("spiece.model", MODEL.replace(b"</s>", b"</x>"), "32,000 tokens, padding 0, end -1"),
        ("tokenizer.json", b"", "an empty file"),
        ("tokenizer.json", b"{", "cannot be read"),
    ],
)
def test_an_unusable_tokenizer_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        make_tokenizer("t5", 32128, tmp_path)


FAST: dict[str, Any] = {
    "model": {"type": "Unigram", "unk_id": 2, "vocab": [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["a", -1]]},
    "added_tokens": [
        {"id": n, "content": text, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
        | {"special": True}
        for n, text in enumerate(["<pad>", "</s>"])
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}]},
}
CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": "AAQAAA" + "A" * 1362}


def fast(**changed: Any) -> bytes:
    return json.dumps(FAST | changed).encode()


def model(**changed: Any) -> bytes:
    return fast(model=FAST["model"] | changed)


NESTED: dict[str, Any] = {"type": "WhitespaceSplit"}
for _ in range(4):
    NESTED = {"type": "Sequence", "pretokenizers": [NESTED]}
REPLACE = {"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": ""}
TOKENIZERS = {
    "another model": (model(type="BPE", merges=[]), "of type 'BPE'"),
    "many pieces": (model(vocab=[["a", 0.0]] * 20_000), "more names and numbers"),
    "many commas": (b'{"a":"' + b"," * 50_000 + b'"}', "more names and numbers"),
    "many objects": (b'{"a":[' + b"{}," * 20_000 + b"{}]}", "more names and numbers"),
    "deep": (b'{"a":' + b"[" * 9_000 + b"]" * 9_000 + b"}", "nested too deeply"),
    "long": (b" " * ((16 << 20) + 1), "more than 16,777,216 bytes"),
    "a long piece": (model(vocab=[["a" * 513, 0.0]]), "at most 512 letters"),
    "infinite score": (model(vocab=[["a", 1]]).replace(b"1]", b"1e999]"), "no finite number"),
    "NaN": (model(vocab=[["a", float("nan")]]), "no finite number"),
    "a name twice": (fast()[:-1] + b',"model":{}}', "comes twice"),
    "no list": (model(vocab=7), "T5's form"),
    "a list": (b"[]", "not a JSON object"),
    "no model": (b"{}", "T5's form"),
    "unknown piece far out": (model(unk_id=10**9), "cannot be read"),
    "a number without end": (model(unk_id=10**400), "cannot be read"),
    "another step": (fast(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+b"}}), "'Split'"),
    "a program": (fast(normalizer=REPLACE), "T5's form"),
    "a long text": (
        fast(normalizer=REPLACE | {"pattern": {"String": "a"}, "content": "b" * 21}),
        "20 letters",
    ),
    "deep steps": (fast(pre_tokenizer=NESTED), "'Sequence'"),
    "many steps": (fast(pre_tokenizer={"type": "Sequence", "pretokenizers": [NESTED] * 9}), "20 letters"),
    "no text": (fast(pre_tokenizer={"type": "Metaspace", "replacement": {"a": 1}}), "20 letters"),
    "letters that are none": (fast(normalizer=CHARSMAP), "cannot be read"),
    "a large token": (fast(added_tokens=[FAST["added_tokens"][0] | {"content": "a" * 513}]), "512 letters"),
}


@pytest.mark.parametrize(("content", "message"), TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_a_hostile_tokenizer_is_refused_within_bounds(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(fast())
    assert make_tokenizer("t5", 384, tmp_path)("a a", 4).tolist() == [[3, 3, END, PAD]]
    path.write_bytes(content)
    with measure_growth() as growth, pytest.raises(CheckpointError, match=message) as error:
        make_tokenizer("t5", 384, tmp_path)
    assert growth[0] < 100
    assert all((error.value.found, error.value.expected, error.value.fix))


def test_a_prompt_that_the_tokenizer_cannot_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(fast())
    tokenizer: Any = make_tokenizer("t5", 384, tmp_path)
    panic = type("PanicException", (BaseException,), {})
    for encode in (
        Mock(side_effect=panic("out of bounds")),
        Mock(return_value=[384]),
        Mock(return_value=[-1]),
    ):
        tokenizer._encode = encode
        with pytest.raises(CheckpointError, match="cannot be read"):
            tokenizer("a", 4)
    for error in (KeyboardInterrupt, MemoryError):
        tokenizer._encode = Mock(side_effect=error)
        with pytest.raises(error):
            tokenizer("a", 4)


@torch.inference_mode()
@pytest.mark.parametrize("size", TEXT_ENCODERS)
def test_t5_is_that_of_transformers(size: str) -> None:
    """Names, shapes and order; of small ones the embedding too, of prompts longer than all distances."""
    with torch.device("meta"):
        theirs: Any = T5EncoderModel(T5Config(**TEXT_ENCODERS[size], dropout_rate=0.0))
    ours: Any = build_t5(TEXT_ENCODERS[size])
    shapes = [[(name, each.shape) for name, each in net.state_dict().items()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for dtype, error in ((torch.float32, 2e-6), (torch.bfloat16, 0.05), (torch.float16, 0.01)):
        if size != "hallo3":
            state = {name: 4 * each for name, each in make_random_state(ours, f"7|{size}").items()}
            for net in (ours, theirs):
                net.load_state_dict(tie_embedding(state), assign=True)
                net.to(dtype)
            tokens = torch.arange(300)[None] % 383
            wanted = theirs.eval()(input_ids=tokens).last_hidden_state
            assert float((ours(tokens) - wanted).abs().max() / wanted.abs().max()) <= error


SIZES = (
    [(build_t5, each) for each in ({"num_heads": 10**6}, {"num_layers": 513}, {"d_ff": 1.5})]
    + [(build_t5, {name: 1}) for name in ("auto_map", "architectures", "relative_attention_num_buckets")]
    + [(build_t5, {"feed_forward_proj": "relu"}), (build_t5, {"layer_norm_epsilon": "x"})]
    + [(build_wav2vec2, {"conv_dim": value}) for value in (8, [], [8] * 40, [True] * 7, [0] * 7)]
    + [(build_wav2vec2, {"conv_bias": 1}), (build_wav2vec2, {"conv_stride": [1] * 7})]
    + [(build_wav2vec2, {"layer_norm_eps": value}) for value in (0, -1.0, float("nan"), 10**400)]
)


@pytest.mark.parametrize(
    ("build", "changes"), SIZES, ids=lambda each: getattr(each, "__name__", str(each)[:40])
)
def test_sizes_of_another_kind_are_refused(build: Any, changes: dict[str, Any]) -> None:
    config = (TEXT_ENCODERS if build is build_t5 else SPEECH_ENCODERS)["nano"]
    with pytest.raises(CheckpointError, match="configuration stored with the weights"):
        build(config | changes)


def test_more_tokens_than_the_network_s_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spiece.model").write_bytes(MODEL)
    with pytest.raises(CheckpointError, match=r"32,000 tokens.*\n.*at most 31,999"):
        make_tokenizer("t5", 31_999, tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DependencyError, match="pip install sentencepiece"):
        make_tokenizer("t5", 32128, tmp_path)
