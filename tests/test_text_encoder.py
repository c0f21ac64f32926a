"""Words and pieces as tokens: what counts, what does not, and what is cut."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hallo3.errors import CheckpointError, DependencyError
from hallo3.text_encoder import END, FIRST_WORD, PAD, ByteTokenizer, WordTokenizer, make_tokenizer
from support.messages import expect_message
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
        ("spiece.model", MODEL[:99_999], "INTERNAL"),
        ("spiece.model", MODEL.replace(b"</s>", b"</x>"), "32,000 tokens, padding 0, end -1"),
        ("tokenizer.json", b"", "an empty file"),
        ("tokenizer.json", b"{", "cannot be read"),
    ],
)
def test_an_unusable_tokenizer_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        make_tokenizer("t5", 32128, tmp_path)


def test_more_tokens_than_the_network_s_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spiece.model").write_bytes(MODEL)
    with pytest.raises(CheckpointError, match=r"32,000 tokens.*\n.*at most 31,999"):
        make_tokenizer("t5", 31_999, tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DependencyError, match="pip install sentencepiece"):
        make_tokenizer("t5", 32128, tmp_path)
