"""The numeric place: the same job on another machine, or with another number of threads (decision 008)."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hallo3 import quantization
from hallo3.cli import animate
from hallo3.jobs.job import open_job
from hallo3.jobs.segment_file import read_note
from hallo3.jobs.video_job import open_video_job
from hallo3.quantization import choose_threads, describe_machine
from support.resume_runs import Command, command_in
from support.toy_renderer import FORM, Toy

HERE, CARD = describe_machine(torch.device("cpu"), torch.float32), "torch 9.9 on a card"


@pytest.fixture
def command(tmp_path: Path, nano_folder: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    command = command_in(tmp_path, nano_folder, capfd)
    command.speak(1.2)  # two segments
    return command


@pytest.fixture(autouse=True)
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def manifest_of(command: Command, **what: str) -> dict[str, Any]:
    """Of the newest job, with other entries of ``what``."""
    path = max(command.jobs.glob("*/job.json"), key=lambda path: path.stat().st_mtime_ns)
    manifest = json.loads(path.read_text())
    manifest["what"] |= what
    path.write_text(json.dumps(manifest))
    return manifest["what"]


@pytest.mark.parametrize("begun", [1, 3])
def test_threads_change_no_frame_of_a_job(
    command: Command, tmp_path: Path, nano_folder: Path, set_threads: Callable[[int], None], begun: int
) -> None:
    """Neither where it resumes, nor in a redo; the process has its own number again afterwards."""
    (tmp_path / "whole").mkdir()
    whole, now = command_in(tmp_path / "whole", nano_folder), begun % 3 + 1
    whole.speak(1.2)
    set_threads(begun)
    assert whole() == 0
    command.stop(1)
    set_threads(now)
    assert command() == 0
    assert command.saved_segments() == whole.saved_segments()
    assert manifest_of(command)["threads"] == str(begun)
    assert [each(redo="1", take=5) for each in (command, whole)] == [0, 0]
    assert command.saved_segments() == whole.saved_segments()
    assert torch.get_num_threads() == now


UNBELIEVED = "0", "10000", "\u0663", "-1", "1e1", " 1", "9" * 5000, "", None


@pytest.mark.parametrize("noted", UNBELIEVED)
def test_a_number_of_threads_that_no_run_wrote_is_not_believed(tmp_path: Path, noted: str | None) -> None:
    """A job of version 0.1.0 has none."""
    manifest, here = Toy().manifest, str(torch.get_num_threads())
    what = {} if noted is None else {"threads": noted}
    with open_job(tmp_path, replace(manifest, what=what), FORM):
        pass
    with open_video_job(tmp_path, manifest, FORM, None, HERE, pytest.fail) as job:
        assert job.manifest.what == {"made with": HERE, "threads": here}
        assert torch.get_num_threads() == int(here)


def test_too_many_threads_are_reported_and_not_started() -> None:
    told = list[str]()
    assert choose_threads("9999", told.append) == torch.get_num_threads()
    assert told[0].startswith("this video was begun with 9999 threads, which are too many here")
    assert choose_threads("64", pytest.fail) == 64


def test_another_machine_is_told_once_and_recorded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what resumes, is redone, reused or continued; each segment's file says what made it."""
    command.stop(1)
    monkeypatch.setattr(animate, "describe_machine", lambda *_: CARD)
    told = f"this video was begun with {HERE}; here it is {CARD}: frames that are rendered from now on may"
    assert told in command.stderr()
    for changes in ({}, {"redo": "2"}):
        assert "begun with" not in command.stderr(**changes)
    monkeypatch.setattr(animate, "describe_machine", lambda *_: "torch 10")
    told = f"begun with {CARD}; here it is torch 10"
    assert told in command.stderr()
    assert manifest_of(command)["made with"] == f"{HERE}; {CARD}", "it made nothing"
    assert told in command.stderr(o=command.video.with_name("2.mp4"), continue_from=command.video)
    assert manifest_of(command)["made with"] == f"{HERE}; {CARD}; torch 10"
    folder = max(command.jobs.glob("*/segments"), key=lambda folder: len(list(folder.iterdir())))
    notes = [read_note(path) for path in sorted(folder.iterdir())]
    parts = [json.loads(note[1])["what"]["made with"].split("; ")[-1] for note in notes if note]
    assert parts == [HERE, CARD, "torch 10", "torch 10"]


@pytest.mark.parametrize("noted", [HERE.split(",")[0], HERE])
def test_a_job_of_version_0_1_0_noted_torch_alone(command: Command, noted: str) -> None:
    command.stop(1)
    manifest_of(command, **{"made with": noted})
    assert "begun with" not in command.stderr()


def test_other_attention_or_kernels_are_told_and_recorded(command: Command) -> None:
    """Exact ones differ by rounding. A job of version 0.1.0 has none noted."""
    command.stop(1)
    here, card = "attention by torch (automatic); plain kernels", "attention by flash-attn; fused kernels"
    assert manifest_of(command)["methods"] == here
    manifest_of(command, methods=card)
    assert f"frames are computed otherwise than before ({card}): {here}; frames" in command.stderr()
    assert manifest_of(command, methods="")["methods"] == ""
    assert "otherwise than before" not in command.stderr(redo="2")
    assert manifest_of(command)["methods"] == here


def test_what_a_stranger_wrote_is_cleaned(command: Command) -> None:
    command.stop(1)
    manifest_of(command, **{"made with": "\x1b[2J" + "a\n" * 10**4})
    told = next(line for line in command.stderr().splitlines() if "begun with" in line)
    assert "\x1b" not in told
    assert len(told) < 1500


def test_a_machine_is_told_by_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last bit of one operation is another machine; other threads are not."""
    devices = torch.device("cpu"), torch.float32
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert describe_machine(*devices) == HERE
        assert torch.get_num_threads() == threads
    half = describe_machine(devices[0], torch.bfloat16)
    assert half.split(", ")[:2] == HERE.split(", ")[:2]
    assert half != HERE
    real = quantization.F.layer_norm
    monkeypatch.setattr(quantization.F, "layer_norm", lambda *a: real(*a).nextafter(torch.tensor(np.inf)))
    assert describe_machine(*devices).split(", ")[:2] == HERE.split(", ")[:2]
    assert describe_machine(*devices) != HERE
