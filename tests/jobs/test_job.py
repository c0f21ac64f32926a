"""The invariant: after any fault, finished segments are intact and a new run makes the same video."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from hallo3.errors import OutputError
from hallo3.jobs.job import open_job, read_manifest
from hallo3.jobs.segment_file import read_note, read_segment
from support.fault_injection import Fault, faults_in, flip_bit
from support.toy_renderer import FORM, SEGMENTS, Toy, rerun


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return Toy().run(tmp_path_factory.mktemp("wanted"))


def segment_files(jobs: Path) -> list[Path]:
    return sorted(jobs.glob("*/segments/*.safetensors"))


@pytest.mark.parametrize("kind", ["full", "broken", "read-only", "kill"])
def test_every_single_fault_leaves_the_invariant(tmp_path: Path, wanted: list[bytes], kind: str) -> None:
    """The n-th change of the file system fails or ends the program, for every n."""
    names = set[str]()
    for number in range(1, 1000):
        jobs, first = tmp_path / str(number), Toy()
        with faults_in(number, kind) as fault, suppress(Fault if kind == "kill" else OutputError):
            first.run(jobs)
        if not fault:
            break
        names.update(fault)
        done = segment_files(jobs)
        assert [path.name for path in done] == [f"{n:06d}.safetensors" for n in range(len(done))]
        for index, path in enumerate(done):
            found = read_segment(path, FORM)
            assert found[1]["piece"].numpy().tobytes() == wanted[index]
        assert rerun(jobs) == (wanted, [*range(len(done), SEGMENTS)]), "no finished one is rendered again"
        assert len(first.rendered) <= len(done) + 1
        assert not list(jobs.rglob("*.unfinished"))
    assert number > 30
    assert names == {"mkdir", "unlink", "open", "write", "fsync", "fsync folder", "replace"}


def test_flipped_bytes_and_cut_files_never_give_a_wrong_video(tmp_path: Path, wanted: list[bytes]) -> None:
    draw = np.random.default_rng(0)
    Toy().run(tmp_path / "whole")
    for number in range(150):
        jobs = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", jobs)
        paths = sorted(path for path in jobs.rglob("*") if path.is_file())
        path = paths[draw.integers(len(paths))]
        size = path.stat().st_size
        if not size or number % 3 == 0:
            os.truncate(path, draw.integers(size + 1))
        else:
            flip_bit(path, draw.integers(size), draw.integers(8))
        again = Toy()
        with suppress(OutputError):  # the flipped bit made the format number larger
            assert again.run(jobs) == wanted, (path, number)
        assert len(again.rendered) <= 1
        shutil.rmtree(jobs)


def test_swapped_missing_and_foreign_segments_are_rendered_again(tmp_path: Path, wanted: list[bytes]) -> None:
    Toy().run(tmp_path / "a")
    Toy("07").run(tmp_path / "b")
    files, foreign = segment_files(tmp_path / "a"), segment_files(tmp_path / "b")
    first, second = files[1].read_bytes(), files[2].read_bytes()
    files[1].write_bytes(second)
    files[2].write_bytes(first)
    assert rerun(tmp_path / "a") == (wanted, [1, 2])
    files[0].unlink()
    assert rerun(tmp_path / "a") == (wanted, [0]), "the later ones are unchanged"
    assert rerun(tmp_path / "a") == (wanted, []), "a finished job renders nothing again"
    for index in (3, 0):
        shutil.copy(foreign[index], files[index])
        assert rerun(tmp_path / "a") == (wanted, [index])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "x"}', "[" * 100_000, '{"a":' * 50_000, "\0" * 100, "x" * (2 << 20)]
)
def test_a_manifest_is_restored_from_the_segments(tmp_path: Path, wanted: list[bytes], text: str) -> None:
    Toy().run(tmp_path)
    folder = next(tmp_path.iterdir())
    (folder / "job.json").write_text(text)
    found = read_manifest(folder)
    assert (found.key, found.segments) == (Toy().manifest.key, SEGMENTS)
    assert rerun(tmp_path) == (wanted, [])
    assert json.loads((folder / "job.json").read_text())["segments"] == SEGMENTS


def test_a_job_of_a_newer_version_is_refused_and_not_changed(tmp_path: Path) -> None:
    Toy().run(tmp_path)
    manifest = next(tmp_path.iterdir()) / "job.json"
    manifest.write_text('{"format": 2, "all": "different"}')
    with pytest.raises(OutputError, match="newer version"):
        Toy().run(tmp_path)
    assert manifest.read_text() == '{"format": 2, "all": "different"}'


def test_an_open_job_has_one_run_and_notices_damage(tmp_path: Path) -> None:
    with (
        open_job(tmp_path, Toy().manifest, FORM),
        pytest.raises(OutputError, match="Another run is working on"),
    ):
        Toy().run(tmp_path)
    assert len(Toy().run(tmp_path)) == SEGMENTS
    with open_job(tmp_path, Toy().manifest, FORM) as job:
        flip_bit(job.path(1))
        with pytest.raises(OutputError, match="is damaged"):
            job.piece(1)


def test_frames_are_kept_on_request_and_checked(tmp_path: Path, wanted: list[bytes]) -> None:
    assert Toy().run(tmp_path, keep_pixels=True) == wanted
    with open_job(tmp_path, Toy().manifest, FORM) as job:
        pixels, note = job.pixels(2), read_note(job.path(2))
        assert pixels.numpy().tobytes() == wanted[2]
        assert note[0].measures["mean"] == pytest.approx(float(pixels.mean()))
        pixels = job.pixels(0)
        assert torch.equal(job.motion(0), pixels[-2:].transpose(0, 1)[None] * 2 - 1), "bit for bit"
