"""Time and memory against the length of speech."""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import pytest

from benchmarks import length
from benchmarks.__main__ import main
from benchmarks.length import STRAIGHT, fitted, hour_of_segments, write_speech
from benchmarks.length_chart import draw_length
from hallo3.config import NANO
from hallo3.media.audio import read_recording
from hallo3.segments import plan_segments

X = (4, 16, 60, 240)


def test_a_line_is_found() -> None:
    line = fitted(X, [7.5 + 0.25 * x for x in X])
    assert (line.start, line.each, line.r2) == pytest.approx((7.5, 0.25, 1))


@pytest.mark.parametrize(("bent", "straight"), [(0.0, True), (1e-6, True), (0.003, False)])
def test_what_grows_faster_is_no_line(bent: float, straight: bool) -> None:
    line = fitted(X, [5 + 0.1 * x + bent * x * x for x in X])
    assert (line.r2 > STRAIGHT) is straight


def test_made_up_noise_lowers_what_the_line_explains() -> None:
    assert fitted((0, 1, 2, 3), (0, 1, 0, 1)).r2 == pytest.approx(0.2)
    with pytest.raises(ValueError, match="two lengths"):
        fitted((4, 4), (1, 2))


def test_speech_is_as_long_as_its_segments(tmp_path: Path) -> None:
    write_speech(tmp_path / "s.wav", 7)
    speech = read_recording(tmp_path / "s.wav")
    assert len(plan_segments(speech.waveform.shape[1], NANO.segment)) == 7
    with wave.open(str(tmp_path / "s.wav")) as file:
        assert file.getnframes() == 7 * NANO.segment.new_frames * 640
    assert hour_of_segments() == 6000


@pytest.mark.skipif(sys.platform != "linux", reason="smaps_rollup is Linux's")
def test_the_whole_command_is_run_and_watched(tmp_path: Path) -> None:
    words = [
        "length",
        "--segments",
        "1",
        "--json",
        str(tmp_path / "l.json"),
        "--chart",
        str(tmp_path / "l.png"),
    ]
    assert main(words) == 0
    found = json.loads((tmp_path / "l.json").read_text())
    assert found["command"] == "python -m benchmarks length --segments 1 --json FILE --chart FILE"
    (row,) = found["lengths"]
    assert row["cpu_seconds"] > 0
    assert row["anonymous_mb"] > 50
    assert found["machine"]["torch"]
    assert (tmp_path / "l.png").exists()


def test_a_crooked_line_fails_where_that_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured(_: Path, segments: int) -> dict[str, float]:
        return {"segments": segments, "seconds": segments**2} | told(segments)

    def told(segments: int) -> dict[str, float]:
        return {"cpu_seconds": segments} if knows else {}

    knows = True
    monkeypatch.setattr(length, "measured", measured)
    path = tmp_path / "l.json"
    assert main(["length", "--short", "--strict", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert [row["segments"] for row in found["lengths"]] == [4, 16, 60]
    assert found["cpu_seconds = start + each * segments"]["r2"] == pytest.approx(1)
    knows = False
    with pytest.raises(SystemExit, match="not above"):
        main(["length", "--short", "--strict"])


def test_a_chart_without_memory_says_so() -> None:
    rows = [{"segments": 4, "seconds": 5.0}, {"segments": 8, "seconds": 6.0, "anonymous_mb": 300.0}]
    assert draw_length(rows, None).shape == (3, 360, 960)
    assert not draw_length(rows, None).equal(draw_length(rows, {"start": 4.0, "each": 0.25, "r2": 1.0}))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_length([], None)


@pytest.mark.soak
def test_time_is_a_line_and_memory_stays() -> None:
    """Run it when nothing else runs."""
    found = length.grown(length.LENGTHS)
    assert length.straightest(found) > STRAIGHT
    assert found["seconds = start + each * segments"]["r2"] > 0.99
    assert found["mb_more_than_the_shortest"] < 64
