"""Words as tokens: what counts, what does not, and what is cut."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3.errors import CheckpointError
from hallo3.text_encoder import END, FIRST_WORD, PAD, ByteTokenizer, WordTokenizer, make_tokenizer
from support.messages import expect_message

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
    assert make_tokenizer("words", 384, tmp_path)() == WordTokenizer(384)
    assert isinstance(make_tokenizer("bytes", 384, tmp_path)(), ByteTokenizer)
    with pytest.raises(CheckpointError, match="no folder"):
        make_tokenizer("t5", 384, tmp_path / "tokenizer")()


@pytest.mark.parametrize("name", ["syllables", "", None, ["words"]])
def test_an_unknown_tokenizer_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(CheckpointError, match="t5 or words or bytes"):
        make_tokenizer(name, 384, tmp_path)
