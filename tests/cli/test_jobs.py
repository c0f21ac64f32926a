"""``hallo3 jobs``, ``--jobs``, and the job that ``--continue-from`` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hallo3.cli.jobs import find_parent
from hallo3.cli.main import main
from hallo3.errors import InputError
from support.resume_runs import before_segment, run, stop_at


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
    out = capsys.readouterr().out
    assert "finished" in out
    assert "(p.png + s.wav + nano)" in out
    name = next(line.split()[0] for line in out.splitlines() if "2 of 4 segments" in line)
    assert main(["jobs", folder, "--clear", name]) == 0
    assert main(["jobs", folder, "--clear", name]) == 2
    capsys.readouterr()
    assert main(["jobs", folder]) == 0
    assert "2 of 4" not in capsys.readouterr().out
    assert main(["jobs", folder, "--clear", "all"]) == 0
    assert main(["jobs", folder]) == 0
    assert "no jobs in" in capsys.readouterr().out


def test_a_job_in_use_is_not_cleared_and_jobs_are_listed_from_inside(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other, errors = str(tmp_path / "elsewhere"), list[str]()

    def clear() -> None:
        main(["jobs", other, "--clear", "all"])
        errors.append(capsys.readouterr().err)

    patch = before_segment(2, clear)
    assert run(inputs | {"--jobs-folder": other}) == 0
    patch.undo()
    assert "Another run is working on this job." in errors[0]
    monkeypatch.chdir(other)
    capsys.readouterr()
    assert main(["jobs"]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["jobs", other, "--clear", "all"]) == 0
    assert [path.name for path in Path(other).iterdir() if path.is_dir()] == []


def test_a_parent_is_named_by_job_or_by_content(inputs: dict[str, str], tmp_path: Path) -> None:
    """Two videos of the same name are distinguished by their content."""
    jobs, videos, parents = tmp_path / "jobs", [tmp_path / "x" / "v.mp4", tmp_path / "y" / "v.mp4"], []
    for seed, video in enumerate(videos):
        video.parent.mkdir()
        assert run(inputs | {"-o": str(video), "--jobs-folder": str(jobs)}, seed=str(seed)) == 0
        parents.append(find_parent(jobs, str(video)))
    assert parents[0].key != parents[1].key
    names = [path.name for path in jobs.iterdir() if path.is_dir()]
    assert {find_parent(jobs, name).key for name in names} == {parent.key for parent in parents}
    patch = stop_at(2, KeyboardInterrupt())
    assert run(inputs | {"-o": str(videos[0]), "--jobs-folder": str(jobs)}, redo="2-3") == 1
    patch.undo()
    for path in (str(videos[0]), "nothing.mp4"):  # not finished any more; no file
        with pytest.raises(InputError, match="no video to continue"):
            find_parent(jobs, path)
