"""``hallo3 doctor --measure``: every part of it, what is kept, and what plans make of it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo3.checkpoints import verify
from hallo3.cli.main import main
from hallo3.config import BUILT_IN, NANO
from hallo3.jobs import estimate
from hallo3.jobs.estimate import ModelSpeed, SegmentTime, read_speed, save_speed, speed_key
from hallo3.speed import device as module
from hallo3.speed.device import DeviceSpeed

CPU = torch.device("cpu")
SHORT = dict.fromkeys(module.SECONDS, 0.05)
SPEED = ModelSpeed(both=2.0, single=1.0, streamed=3.0, beside=5.0, pixel=1e-6, blocks=10, error=0.2)


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hallo3.storage.files.home", lambda: tmp_path)


def measure(**options: Any) -> DeviceSpeed:
    return DeviceSpeed(**{"device": CPU, "seconds": SHORT, "models": (BUILT_IN,)} | options)


def fail(*_: Any) -> None:
    raise OSError("cannot open /home/someone/model, nor C:\\Users\\someone")


def test_a_part_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And no text names a file or a user."""
    monkeypatch.setattr(module, "list_runnable", fail)
    speed, shown = measure(), list[int]()

    @contextmanager
    def display(_: str, total: int) -> Iterator[Any]:
        yield shown.append
        assert sum(shown) == total

    speed.measure(display)
    assert [*speed.lines] == ["products", "attention", "copies", "built-in"]
    assert speed.lines["attention"] == "not measured: OSError: cannot open FILE nor FILE"
    assert all("not measured" not in line for name, line in speed.lines.items() if name != "attention")
    assert not re.search(r"someone|/home|\\|~|" + re.escape(str(tmp_path.parent)), speed.text())
    assert read_speed(CPU, speed_key(BUILT_IN, "fp32")) == speed.speeds[speed_key(BUILT_IN, "fp32")]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stop_keeps_what_was_measured(stop: type[BaseException]) -> None:
    """By Ctrl+C, or by a display that raises, as ComfyUI's does."""
    speed = measure()

    @contextmanager
    def display(*_: Any) -> Iterator[Any]:
        def show(_: int) -> None:
            if "products" in speed.lines:
                raise stop

        yield show

    with pytest.raises(stop):
        speed.measure(display)
    assert "TFLOP/s" in speed.text()
    assert [*speed.lines] == ["products"]


@pytest.mark.any_message
def test_the_command_tells_and_plans_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], samples: Path
) -> None:
    monkeypatch.setattr(module, "SECONDS", SHORT)
    monkeypatch.setattr(module, "MODELS", (BUILT_IN,))
    files = "--portrait", samples / "portrait.png", "--speech", samples / "speech.wav"
    plan = "animate", *map(str, files), "--plan", "--jobs-folder", str(tmp_path)
    assert main(["doctor"]) == 2
    assert "--measure, which needs none" in capfd.readouterr().err
    assert main(["doctor", "--measure"]) == 0
    assert "of computing for a minute of video" in capfd.readouterr().out
    assert main(["doctor", "--measure", "--json"]) == 0
    (kept,) = json.loads(capfd.readouterr().out)["measured"]["models"].values()
    assert kept == asdict(read_speed(CPU, speed_key(BUILT_IN, "fp32")))
    assert main([*plan, "--json"]) == 0
    planned = json.loads(capfd.readouterr().out)
    expected = kept["single"] + kept["beside"] + kept["pixel"] * 31 * 64 * 64
    assert planned["render_seconds"] == pytest.approx(6 * expected)
    assert planned["error"] == kept["error"]
    for other in ("--dtype=bf16", "--attention=math", "--kernels=plain", "--vram=8"):
        assert main([*plan, other]) == 0
        assert "doctor --measure" in capfd.readouterr().out, other


def test_an_expected_time_is_told_with_its_error() -> None:
    said = estimate.RunEstimate(
        segments=10,
        frames=310,
        job=1,
        video=1,
        memory=1,
        render_seconds=None,
        measured=False,
        grows=False,
        segment_length=1.24,
    )
    assert "unknown: no earlier run" in said.text()
    expecting = said.expecting(SegmentTime(62.0, 0.2))
    assert "8 min to 12 min (as this device was measured): 40 min to 1 h 00 min" in expecting.text()
    assert "about 10 min, uncertain" in said.expecting(SegmentTime(62.0, 0.7)).text()
    earlier = replace(said, render_seconds=620.0, pace=50.0)
    assert earlier.expecting(SegmentTime(1.0, 0.2)) == earlier
    assert "10 min (from earlier runs): 50 min of computing" in earlier.text()


@pytest.mark.parametrize(
    ("run", "seconds"),
    [
        ({"guided": 4, "unguided": 0}, 8.0),
        ({"guided": 4, "unguided": 2}, 10.0),
        ({"guided": 4, "unguided": 0, "sequential": True}, 8.0),
        ({"guided": 4, "unguided": 0, "streamed": 10}, 12.0),
        ({"guided": 4, "unguided": 1, "streamed": 5}, 9.5),  # copies pass beside the work
        ({"guided": 4, "unguided": 1, "read": 2.5}, 12.5),
    ],
)
def test_a_segment_is_the_sum_of_its_parts(run: dict[str, Any], seconds: float) -> None:
    time = SPEED.segment_time(**run, pixels=1_000_000)
    assert time is not None
    assert (time.seconds, time.error) == (pytest.approx(seconds + 5.0 + 1.0), 0.2)
    assert replace(SPEED, streamed=0.0).segment_time(guided=1, unguided=0, pixels=1, streamed=1) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"MACHINE": 3}', '{"MACHINE": {"KEY": {"both": "x"}}}'])
def test_speeds_are_kept_by_device_and_version(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = verify.examined_path()
    assert path is not None
    machine, key = estimate._speed_machine(CPU), speed_key(NANO, "fp32")
    path.with_name(estimate.SPEED_FILENAME).parent.mkdir(parents=True, exist_ok=True)
    path.with_name(estimate.SPEED_FILENAME).write_text(text.replace("MACHINE", machine).replace("KEY", key))
    assert read_speed(CPU, key) is None
    save_speed(CPU, key, SPEED)
    assert read_speed(CPU, key) == SPEED
    for other in (speed_key(BUILT_IN, "fp32"), speed_key(NANO, "bf16")):
        assert read_speed(CPU, other) is None
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert read_speed(CPU, key) is None
    monkeypatch.setattr(estimate, "examined_path", lambda: None)
    save_speed(CPU, key, SPEED)  # there is no home to keep it in
    assert read_speed(CPU, key) is None
