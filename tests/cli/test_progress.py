"""What the command shows: stages, a clock that ticks, and times without loading."""

from __future__ import annotations

import io
import json
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest

from hallo3.checkpoints import load
from hallo3.cli import progress
from hallo3.cli.progress import StepBar, tick
from hallo3.jobs.estimate import THROUGHPUT_FILENAME
from hallo3.pipeline import SAMPLING, RenderProgress
from support.resume_runs import Command, before, before_sampling


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_a_clock_ticks_on_a_terminal_until_its_block_ends(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = threading.Event()
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with suppress(KeyboardInterrupt), tick(SimpleNamespace(refresh=drawn.set)):
        assert terminal == any(thread.name == progress.CLOCK for thread in threading.enumerate())
        assert not terminal or drawn.wait(60)
        raise KeyboardInterrupt
    assert all(thread.name != progress.CLOCK for thread in threading.enumerate())


@pytest.mark.any_message
def test_a_run_shows_its_stages_in_order(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert command(prompt="hi") == 0
    words = ["checking", "wav2vec2", "encoding speech", "tokenizer", "T5", "VAE", "reference network"]
    words += ["Hallo3's transformer", "preparing", "segment 1/4, encoding", "segment 1/4, sampling"]
    words += ["segment 1/4, decoding", "decoding, 9/17 frames", "segment 1/4, saving", "segment 4/4, saving"]
    text, end = terminal.getvalue(), 0
    for word in words:
        assert word in text[end:], f"{word} after what comes before it"
        end = text.index(word, end)


def test_time_left_goes_on_and_counts_what_is_beside_the_steps() -> None:
    now = 0.0
    bar = StepBar(missing=2, segments=3, steps=2, clock=lambda: now)

    def spend(seconds: float, stage: str = "", step: int = 0) -> None:
        nonlocal now
        if stage:
            bar.stage(1, stage)
        now += seconds
        if step:
            bar.watch(RenderProgress(0, 2, step, 2))

    with bar:
        spend(3, "encoding")
        assert bar.left() is None
        spend(10, SAMPLING, 1)
        assert bar.left() == 3 * 10 + 3
        spend(4)
        assert bar.left() == 3 * 10 + 3 - 4
        spend(6, step=2)
        spend(5, "decoding")
        bar.finish_segment()
        assert bar.left() == 2 * 10 + 8
        spend(1000, "encoding")
        assert bar.left() == 0


def test_kept_seconds_are_without_loading(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one resumed segment; and of a first one in which the VAE is read, as the identity is a saved one."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(progress, "time", clock)

    def spend(seconds: float) -> None:
        clock.now += seconds

    identity = command.video.with_name("i.safetensors")
    command.stop(3, save_identity=identity)
    with before(load, "read_tensor", lambda: spend(1000)), before_sampling(lambda _: spend(7)):
        for changes in ({}, {"identity": identity, "portrait": None}):
            assert command(**changes) == 0, command.err
            kept = json.loads((command.jobs / THROUGHPUT_FILENAME).read_text(encoding="utf-8"))
            assert list(kept.values())[-1]["seconds"] == 7, command.rendered
