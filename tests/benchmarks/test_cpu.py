"""Time and memory by length of speech."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks import cpu
from benchmarks.__main__ import main
from benchmarks.cpu import LENGTHS, MIN_R2, fit_line, line_r2, measure_lengths, write_speech
from hallo3.config import NANO
from hallo3.media.audio import read_recording
from hallo3.segments import plan_segments

X = (4, 16, 60, 240)


@pytest.mark.parametrize(("bend", "straight"), [(0.0, True), (1e-6, True), (0.003, False)])
def test_only_a_line_is_a_line(bend: float, straight: bool) -> None:
    line = fit_line(X, [7.5 + 0.25 * x + bend * x * x for x in X])
    assert (line.r2 > MIN_R2) is straight
    if not bend:
        assert line == pytest.approx((7.5, 0.25, 1))
    assert fit_line((0, 1, 2, 3), (0, 1, 0, 1)).r2 == pytest.approx(0.2)


def test_speech_is_as_long_as_its_segments(tmp_path: Path) -> None:
    write_speech(tmp_path / "s.wav", 7 * NANO.segment.new_frames)
    samples = read_recording(tmp_path / "s.wav").waveform.shape[1]
    assert samples == 7 * NANO.segment.new_frames * 640
    assert len(plan_segments(samples, NANO.segment)) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="smaps_rollup is Linux's")
def test_the_whole_command_is_run_and_measured(tmp_path: Path) -> None:
    assert main(["length", "--segments", "1", "--json", str(tmp_path / "l.json")]) == 0
    result = json.loads((tmp_path / "l.json").read_text())
    assert result["command"] == "python -m benchmarks length --segments 1 --json FILE"
    (row,) = result["lengths"]
    assert row["cpu_seconds"] > 0
    assert row["anonymous_mb"] > 50


@pytest.mark.parametrize("cpu_seconds", [True, False])
def test_strict_needs_a_line(cpu_seconds: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(_: Path, segments: int) -> dict[str, float]:
        row = {"segments": segments, "seconds": segments**2}
        return row | ({"cpu_seconds": segments} if cpu_seconds else {})

    monkeypatch.setattr(cpu, "measure_length", measure)
    words = ["length", "--short", "--strict", "--json", str(tmp_path / "l.json")]
    with nullcontext() if cpu_seconds else pytest.raises(SystemExit, match="not above"):
        assert main(words) == 0
    result = json.loads((tmp_path / "l.json").read_text())
    assert [row["segments"] for row in result["lengths"]] == [4, 16, 60]
    line = result.get("cpu_seconds = start + each * segments")
    assert line == ({"start": 0, "each": 1, "r2": pytest.approx(1)} if cpu_seconds else None)


@pytest.mark.soak
def test_time_is_a_line_and_memory_stays() -> None:
    """Run it when nothing else runs."""
    result = measure_lengths(LENGTHS)
    assert line_r2(result) > MIN_R2
    assert result["seconds = start + each * segments"]["r2"] > 0.99
    assert result["mb_more_than_the_shortest"] < 64
