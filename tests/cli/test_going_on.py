"""What is finished is kept: the same command goes on, and people are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3.cli import renderer
from hallo3.cli.main import main
from support.audio_samples import tone, write_wav
from support.resume_runs import inputs_in, packets, record_rendered, run, stop_at


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    return inputs_in(tmp_path, nano_folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return record_rendered(monkeypatch)


ERRORS = [
    KeyboardInterrupt(),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_same_command_goes_on(
    inputs: dict[str, str],
    drawn: list[int],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    assert run(inputs) == 0
    wanted = {kind: packets(inputs["-o"], kind) for kind in ("video", "audio")}
    Path(inputs["-o"]).unlink()
    shutil.rmtree(Path(inputs["-o"]).parent / "hallo3_jobs")
    patch = stop_at(2, error)
    capsys.readouterr()
    assert run(inputs) == 1
    patch.undo()
    said = capsys.readouterr().err
    assert "2 of 4 segments are saved; the same command resumes from there" in said
    so_far = next(Path(inputs["-o"]).parent.glob("hallo3_jobs/*/so_far.mp4"))
    assert str(so_far) in said
    assert isinstance(error, KeyboardInterrupt) or "Out of memory." in said
    assert len(packets(so_far, "video")) >= 15
    drawn.clear()
    assert run(inputs) == 0
    out, err = capsys.readouterr()
    assert "resuming after 2 of 4 finished segments" in err
    assert "2 of 4 segments were already rendered" in out
    assert drawn == [2, 3]
    assert {kind: packets(inputs["-o"], kind) for kind in ("video", "audio")} == wanted
    assert not so_far.exists()


def test_a_finished_video_is_given_again_without_a_network(
    inputs: dict[str, str], drawn: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(inputs) == 0
    before = Path(inputs["-o"]).read_bytes()
    monkeypatch.setattr(renderer, "load_models", None)
    drawn.clear()
    assert run(inputs | {"-o": str(tmp_path / "again.mp4")}) == 0
    assert (tmp_path / "again.mp4").read_bytes() == before
    assert drawn == []


def test_how_memory_is_saved_is_no_other_job(inputs: dict[str, str], drawn: list[int]) -> None:
    assert run(inputs) == 0
    drawn.clear()
    assert run(inputs, "--low-memory", "--no-mark") == 0
    assert run(inputs, "--offload", "disk") == 0
    assert drawn == []


def test_segments_are_done_again(
    inputs: dict[str, str], drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    before = packets(inputs["-o"], "video")
    drawn.clear()
    assert run(inputs, redo="2-3") == 0
    assert drawn == [1, 2]
    assert "re-rendering segments 2 to 3 as take 1" in capsys.readouterr().err
    after = packets(inputs["-o"], "video")
    assert after[:15] == before[:15]
    assert after[45:] == before[45:]
    assert after[15:45] != before[15:45]
    assert run(inputs, redo="2-3") == 0
    assert "are take 1 already" in capsys.readouterr().err
    assert run(inputs, redo="9") == 2


def test_a_video_is_started_again(
    inputs: dict[str, str], drawn: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    drawn.clear()
    assert run(inputs, "--fresh") == 0
    assert drawn == [0, 1, 2, 3]
    assert "earlier work was moved to" in capsys.readouterr().err
    jobs = Path(inputs["-o"]).parent / "hallo3_jobs"
    assert sorted(path.name.endswith(".old-1") for path in jobs.iterdir() if path.is_dir()) == [False, True]


def test_a_video_goes_on_with_more_speech(
    inputs: dict[str, str], drawn: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs) == 0
    first = packets(inputs["-o"], "video")
    write_wav(tmp_path / "more.wav", tone(48000, 1.0, 2), 48000)
    longer = inputs | {"--speech": str(tmp_path / "more.wav"), "-o": str(tmp_path / "longer.mp4")}
    drawn.clear()
    for _ in range(2):
        assert run(longer, continue_from=inputs["-o"]) == 0
        assert drawn == [0, 1]
        both = packets(tmp_path / "longer.mp4", "video")
        assert both[:55] == first
        assert len(both) == 55 + 25
    with av.open(str(tmp_path / "longer.mp4")) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert abs(len(heard) / container.streams.audio[0].rate - 3.2) < 0.05
    assert float(np.abs(heard[-20000:]).max()) > 0.3
    assert run(longer, continue_from="nothing.mp4") == 2
    assert "no video to continue" in capsys.readouterr().err


def test_jobs_are_listed_and_cleared(inputs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(Path(inputs["-o"]).parent)
    assert main(["jobs", folder]) == 0
    assert "no jobs in" in capsys.readouterr().out
    assert run(inputs) == 0
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs, seed="5") == 1
    patch.undo()
    capsys.readouterr()
    assert main(["animate", "--jobs", "-o", inputs["-o"]]) == 0
    said = capsys.readouterr().out
    assert "2 of 4 segments" in said
    assert "finished" in said
    assert "(p.png + s.wav + nano)" in said
    name = next(line.split()[0] for line in said.splitlines() if "2 of 4" in line)
    assert main(["jobs", folder, "--clear", name]) == 0
    assert main(["jobs", folder, "--clear", name]) == 2
    assert main(["jobs", folder]) == 0
    assert "2 of 4" not in capsys.readouterr().out.split("cleared")[-1]
    assert main(["jobs", folder, "--clear", "all"]) == 0
    assert main(["jobs", folder]) == 0
    assert "no jobs in" in capsys.readouterr().out


def test_a_plan_knows_how_long_it_took_before(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, "--plan") == 0
    assert "no earlier run" in capsys.readouterr().out
    assert run(inputs) == 0
    size = Path(inputs["-o"]).stat().st_size
    assert run(inputs, "--plan") == 0
    said = capsys.readouterr().out
    assert "from earlier runs" in said
    assert "no earlier run" not in said
    assert size > 0


def test_what_cannot_fit_on_the_disk_is_refused_with_both_numbers(
    inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    monkeypatch.setattr(renderer, "load_models", None)
    for flags in (("--plan",), ()):
        assert run(inputs, *flags) == 2
        assert "1 kB free" in capsys.readouterr().err


def test_drift_is_drawn(inputs: dict[str, str], tmp_path: Path) -> None:
    assert run(inputs, chart=str(tmp_path / "drift.png")) == 0
    with Image.open(tmp_path / "drift.png") as chart:
        assert chart.size[0] == 960
    assert run(inputs, chart=str(tmp_path / "drift.txt")) == 2
