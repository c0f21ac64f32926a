"""``--approximate``: what it is called, what it plans, what contradicts it, what is said and kept."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hallo3.cli import request
from hallo3.cli.main import main, parse
from hallo3.cli.request import read_request
from hallo3.settings import APPROXIMATIONS, UNTESTED
from support.audio_samples import RATE, tone, write_wav
from support.messages import expect_message
from support.resume_runs import frames_of


@pytest.fixture
def words(tmp_path: Path, samples: Path, nano_folder: Path) -> list[str]:
    speech = write_wav(tmp_path / "s.wav", tone(RATE, 0.72), RATE)
    given = ["animate", "--portrait", str(samples / "portrait.png"), "--speech", str(speech)]
    return [*given, "--model", str(nano_folder), "-o", str(tmp_path / "out.mp4")]


@pytest.mark.usefixtures("nano_of_50_steps")
@pytest.mark.parametrize(
    ("flags", "evaluations", "at_most"),
    [
        ([], 200, ""),
        (["--approximate", "steps-30"], 120, ""),
        (["--approximate", "steps-20"], 80, ""),
        (["--approximate", "guidance-middle"], 160, ""),
        (["--approximate", "step-cache"], 200, "at most "),
        (["--approximate", "steps-30,guidance-middle", "--approximate", "step-cache"], 96, "at most "),
    ],
)
def test_the_plan_counts_what_is_left(
    words: list[str],
    flags: list[str],
    evaluations: int,
    at_most: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two segments, two branches."""
    assert main([*words, *flags, "--plan"]) == 0
    out, err = capsys.readouterr()
    assert f"network   {at_most}{evaluations} evaluations" in out
    assert (UNTESTED in err) == bool(flags)
    assert main([*words, *flags, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["network_evaluations"] == evaluations
    assert ("reuses" in plan) == bool(at_most)


@pytest.fixture
def nano_of_50_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random model as if it were made for the original's steps; --steps is refused beside steps-30."""
    real = request.read_model_config

    def fifty(path: Path):
        config = real(path)
        return replace(config, defaults=replace(config.defaults, steps=50))

    monkeypatch.setattr(request, "read_model_config", fifty)


REFUSED = {
    "no such name": (["--approximate", "steps-40"], "steps-30 or steps-20 or guidance-middle or step-cache"),
    "nothing named": (["--approximate", ""], "Unknown approximation"),
    "two numbers of steps": (["--approximate", "steps-30,steps-20"], "steps-30 and steps-20"),
    "beside --steps": (
        ["--approximate", "steps-30", "--steps", "40"],
        "--steps 40 and --approximate steps-30",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_itself_is_refused(
    words: list[str], case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, message = REFUSED[case]
    assert main([*words, *flags, "--plan"]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Fix:" in err
    assert out == ""


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_what_saves_nothing_is_said_and_left_out(
    words: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The built-in model takes one step without guidance."""
    del words[words.index("--model") : words.index("--model") + 2]
    assert main([*words, "--approximate", name, "--plan"]) == 0
    out, err = capsys.readouterr()
    assert f"{name} saves nothing here (1 step, guidance 1) and is not used" in err
    assert UNTESTED not in err
    assert "network   1 evaluations" in out


def options_of(words: list[str], *flags: str) -> Namespace:
    return parse([*words, *flags])[1]


def test_the_job_is_another_with_each_and_the_same_without(words: list[str]) -> None:
    def key(*flags: str) -> str:
        return read_request(options_of(words, "--steps", "12", *flags)).job_key("")

    plain = key()
    found = {plain}
    for names in ("guidance-middle", "step-cache", "guidance-middle,step-cache"):
        with expect_message(UNTESTED):
            found.add(key("--approximate", names))
    assert len(found) == 4
    with expect_message("saves nothing"):
        assert key("--guidance", "1", "--approximate", "guidance-middle") == key("--guidance", "1")


def test_the_facts_of_a_job_without_any_are_what_they_were(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that were begun before there were approximations are still gone on with."""
    facts: dict[str, object] = {}
    monkeypatch.setattr("hallo3.cli.request.hash_facts", lambda found: facts.update(found) or "key")
    read_request(options_of(words)).job_key("")
    assert not {"guidance interval", "step cache"} & facts.keys()
    assert facts["numerics"] == 1
    with expect_message(UNTESTED):
        read_request(options_of(words, "--steps", "12", "--approximate", "step-cache")).job_key("")
    assert facts["step cache"] == [0.1, 0.2]


def test_a_run_says_what_the_cache_did(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--steps", "40", "--sampler", "dpmpp_2m"]
    assert main([*words, *flags]) == 0
    assert "step cache" not in capsys.readouterr().err
    plain = frames_of(words[-1])
    assert main([*words, *flags, "--approximate", "step-cache"]) == 0
    err = capsys.readouterr().err
    assert "note: step-cache: untested on real weights" in err
    assert "of 80 steps were not computed" in err
    assert "note: step cache: 0 of" not in err
    assert not np.array_equal(frames_of(words[-1]), plain)
    assert main([*words, *flags, "--approximate", "step-cache"]) == 0
    assert "step cache:" not in capsys.readouterr().err, "nothing was rendered"
