"""A job's folder from a stranger: nothing outside it is opened, changed or deleted, and the video comes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hallo3.jobs.job import SPEECH_DIRS, remove_files
from hallo3.jobs.store import clear_job, list_jobs, remove_stale_jobs
from support.hostile_jobs import snapshot
from support.own_process import run_alone
from support.toy_renderer import SEGMENTS, Toy, rerun

POSIX = pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
Spoil = Callable[[Path, Path], object]
"""(the job's folder, a folder that is not ours) -> changes the job's."""


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return Toy().run(tmp_path_factory.mktemp("wanted"))


def replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir():
        path.rename(path.parent.parent / f"real {path.name}")
    else:
        path.unlink(missing_ok=True)
    make(path)


NOT_A_JOB: dict[str, Spoil] = {
    **{
        f"a link as {name}": lambda job, other, name=name: replace(
            job / name, lambda p: p.symlink_to(other / "file")
        )
        for name in (
            "job.json",
            "holder.json",
            "lock",
            "JOB.JSON",
            "so_far.mp4.unfinished",
            "sound.0123456789abcdef.mp4",
            "segments/000001.safetensors",
            "segments/000001.safetensors.unfinished",
            "speech/layer_00.f32",
        )
    },
    "segments are a link": lambda job, other: replace(job / "segments", lambda p: p.symlink_to(other)),
    "speech is a link": lambda job, other: replace(job / "speech", lambda p: p.symlink_to(other)),
    "the folder is a link": lambda job, other: replace(job, lambda p: p.symlink_to(other)),
    "the folder is a file": lambda job, _: replace(job, lambda p: p.write_text("mine")),
    "job.json is a pipe": lambda job, _: replace(job / "job.json", os.mkfifo),
    "job.json is a folder": lambda job, _: replace(job / "job.json", Path.mkdir),
    "a segment is a pipe": lambda job, _: replace(job / "segments/000002.safetensors", os.mkfifo),
    "job.json is in /proc": lambda job, _: replace(
        job / "job.json", lambda p: p.symlink_to("/proc/self/environ")
    ),
    "the lock is a hard link": lambda job, other: replace(job / "lock", lambda p: os.link(other / "file", p)),
    "the unfinished file is a folder": lambda job, _: (job / "job.json.unfinished").mkdir(),
}


@pytest.mark.any_message
@POSIX
@pytest.mark.parametrize("case", NOT_A_JOB)
def test_what_is_no_job_is_left_as_it_is(
    tmp_path: Path, wanted: list[bytes], case: str, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, other = tmp_path / "jobs", tmp_path / "other"
    Toy().run(jobs)
    (other / "segments").mkdir(parents=True)
    (other / "file").write_text("precious")
    folder = next(jobs.iterdir())
    (folder / SPEECH_DIRS[0]).mkdir()
    NOT_A_JOB[case](folder, other)
    before = snapshot(other), snapshot(folder) if folder.is_dir() and not folder.is_symlink() else {}
    for rendered in ([*range(SEGMENTS)], []):
        assert rerun(jobs) == (wanted, rendered)
        remove_stale_jobs(jobs, "0" * 64)
        assert folder.name + "-2" in caplog.text
        assert "left as it is" in caplog.text
        assert [job.name for job in list_jobs(jobs)] == [folder.name + "-2"]
    after = snapshot(other), snapshot(folder) if before[1] else {}
    assert after == before
    clear_job(jobs, folder.name)
    assert not (jobs / f"{folder.name}-2").exists()
    assert os.path.lexists(folder)


def test_other_files_in_a_job_stay(tmp_path: Path) -> None:
    Toy().run(tmp_path)
    folder = next(tmp_path.iterdir())
    notes = [folder / "notes.txt", folder / "segments" / "a.mp4", folder / SPEECH_DIRS[0] / "a.wav"]
    (folder / SPEECH_DIRS[0]).mkdir()
    (folder / SPEECH_DIRS[0] / "layer_00.f32").touch()
    for path in notes:
        path.write_text("mine")
    remove_files(folder, SPEECH_DIRS[0])
    assert list((folder / SPEECH_DIRS[0]).iterdir()) == notes[2:]
    assert rerun(tmp_path)[1] == []
    clear_job(tmp_path, folder.name)
    remove_stale_jobs(tmp_path, "0" * 64)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "a.mp4",
        "a.wav",
        "ages.json",
        "notes.txt",
    ]


GENERATED = [range(12), pytest.param(range(12, 212), marks=pytest.mark.soak)]


@POSIX
@pytest.mark.parametrize("numbers", GENERATED, ids=str)
def test_generated_folders_reach_no_other_place(tmp_path: Path, numbers: range) -> None:
    """An audit hook sees each call that opens, lists, changes or deletes: all in the jobs' and the video's
    folder. No socket, no error, at most 100 MB and 2 CPU seconds, and the same video."""
    call = f"resume_spoiled(Path({str(tmp_path)!r}), {numbers})"
    assert run_alone("support.hostile_jobs", call, 3000) == []
