"""Command lines as typed options."""

from dataclasses import fields
from pathlib import Path

import pytest

from hallo3.built_in import FOLDER
from hallo3.cli.main import COMMANDS, parse
from hallo3.cli.options import IN_MODEL_FOLDER, AnimateOptions


def animate(*words: str) -> AnimateOptions:
    options = parse(["animate", *words])[1]
    assert isinstance(options, AnimateOptions)
    return options


def test_options_have_the_types_of_their_fields() -> None:
    options = animate("-o", "v.mp4", "--steps", "7", "--guidance", "1.5", "--vram", "6", "--plan", "--vocals")
    assert (options.output, options.steps, options.guidance) == (Path("v.mp4"), 7, 1.5)
    assert (options.vram, options.plan, options.vocals) == (6.0, True, IN_MODEL_FOLDER)
    assert animate("--vae", "a", "--faces", "b").files == {"vae": Path("a"), "faces": Path("b")}
    assert animate("--approximate", "a,b", "--approximate", "c").approximate == ["a,b", "c"]


def test_defaults() -> None:
    assert (animate().model, animate().output, animate().approximate) == (FOLDER, None, [])
    assert animate("--model", "built-in").model == FOLDER
    assert animate("--model", "./built-in").model == Path("built-in")
    assert parse(["jobs"])[1].folder == Path()


def test_every_option_has_a_help_text() -> None:
    all_of = {(name, each) for name, command in COMMANDS.items() for each in fields(command.options)}
    without = {
        f"{name} {each.name}"
        for name, each in all_of
        if each.metadata and not each.metadata["settings"]["help"]
    }
    parts = ("transformer", "reference", "vae", "text_encoder", "speech_encoder", "tokenizer", "faces")
    assert without == {f"{name} {part}" for name in ("animate", "batch", "serve") for part in parts}


@pytest.mark.parametrize("words", ["--steps many", "--guidance much", "--seed 1.5", "--codec vp9", "--other"])
def test_other_words_are_refused(words: str) -> None:
    with pytest.raises(SystemExit) as refusal:
        animate(*words.split())
    assert refusal.value.code == 2
