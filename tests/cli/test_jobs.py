"""``hallo3 jobs``, ``--jobs``, and the job that ``--continue-from`` names."""

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path

import pytest

from hallo3.cli.jobs import find_parent
from hallo3.cli.main import main
from hallo3.errors import InputError
from hallo3.jobs.job import SPEECH_DIRS
from support.resume_runs import Command, Undisturbed, before_segment


def test_jobs_are_listed_and_cleared(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    def jobs(*words: str, code: int = 0) -> str:
        assert main(["jobs", str(command.video.parent), *words]) == code
        return capfd.readouterr().out

    assert "no jobs in" in jobs()
    assert command() == 0
    command.stop(2, seed=5)
    out = command.stdout("--jobs")
    assert "finished" in out
    assert "(p.png + s.wav + nano)" in out
    with chdir(command.jobs):
        assert main(["jobs"]) == 0
    assert capfd.readouterr().out == out
    name = next(line.split()[0] for line in out.splitlines() if "2 of 4 segments" in line)
    jobs("--clear", name)
    jobs("--clear", name, code=2)
    assert "2 of 4" not in jobs()
    jobs("--clear", "all")
    assert "no jobs in" in jobs()


def test_a_job_in_use_is_not_cleared(command: Command, tmp_path: Path) -> None:
    command.inputs["--jobs-folder"] = other = str(tmp_path / "elsewhere")
    with before_segment(2, lambda: main(["jobs", other, "--clear", "all"])):
        assert "Another run is working on this job." in command.stderr()
    assert main(["jobs", other, "--clear", "all"]) == 0
    assert command.names_of_jobs() == set()


def test_a_parent_is_named_by_job_or_by_content(command: Command, tmp_path: Path) -> None:
    """Two videos of the same name are distinguished by their content."""
    command.inputs["--jobs-folder"] = str(tmp_path / "jobs")
    videos, parents = [tmp_path / "x" / "v.mp4", tmp_path / "y" / "v.mp4"], []
    for seed, video in enumerate(videos):
        video.parent.mkdir()
        assert command(o=video, seed=seed) == 0
        parents.append(find_parent(command.jobs, str(video)))
    assert parents[0].key != parents[1].key
    named = {find_parent(command.jobs, name).key for name in command.names_of_jobs()}
    assert named == {parent.key for parent in parents}
    command.stop(2, o=videos[0], redo="2-3")
    for path in (str(videos[0]), "nothing.mp4"):  # not finished any more; no file
        with pytest.raises(InputError, match="no video to continue"):
            find_parent(command.jobs, path)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.any_message
def test_the_command_resumes_and_lists_beside_what_is_no_job(
    command: Command, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Links are left, texts are cleaned, pieces of another kind are rendered again, a path is no name."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "layer_00.f32").write_text("mine")
    command.stop(2)
    folder = next(path for path in command.jobs.iterdir() if path.is_dir())
    fields = json.loads((folder / "job.json").read_text())
    shutil.rmtree(folder / SPEECH_DIRS[0])
    (folder / SPEECH_DIRS[0]).symlink_to(precious)
    (folder / "so_far.mp4").unlink()
    os.link(precious / "layer_00.f32", folder / "so_far.mp4")
    assert "left as it is" in command.stderr()
    assert command.video.read_bytes() == undisturbed.video
    assert (precious / "layer_00.f32").read_text() == "mine"
    (folder / SPEECH_DIRS[0]).unlink()
    fields["what"]["video"] = "\x1b[2J\x07evil"
    hostile = command.jobs / "0123456789abcdef"
    shutil.copytree(folder, hostile)
    for key in ("0123456789abcdef" + "0" * 48, "../../precious"):
        (hostile / "job.json").write_text(json.dumps({**fields, "key": key, "finished": True}))
        out = command.stdout("--jobs")
        assert "\x1b" not in out
        assert ("evil" in out) == key.endswith("0")
    (hostile / "job.json").unlink()
    os.mkfifo(hostile / "job.json")
    for name in ("../../precious", str(precious), "0123456789abcdef", folder.name):
        assert "There is no video to continue" in command.stderr(code=2, continue_from=name)
    assert command.video.name in command.stdout("--jobs")
