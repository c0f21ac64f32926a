"""The invariant: after any fault, finished segments are intact and a new run makes the same video."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hallo3.errors import OutputError
from hallo3.jobs.job import (
    folder_size,
    job_folder,
    open_job,
    own_files,
    parse_manifest,
    read_manifest,
)
from hallo3.jobs.redo import Redo
from hallo3.jobs.segment_file import read_note, read_segment
from hallo3.storage.files import ForeignEntryError
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


@pytest.mark.any_message
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


def test_a_finished_job_is_another_once_a_segment_is(tmp_path: Path) -> None:
    Toy().run(tmp_path)
    told = list[int]()
    with open_job(tmp_path, Toy().manifest, FORM, told.append) as job:
        job.finish("content")
    assert told == [1] * SEGMENTS
    folder = next(tmp_path.iterdir())
    assert rerun(tmp_path)[1] == []
    assert read_manifest(folder).finished
    assert rerun(tmp_path, Redo(SEGMENTS, SEGMENTS, 1))[1] == [SEGMENTS - 1]
    assert not read_manifest(folder).finished
    assert json.loads((folder / "job.json").read_text())["what"]["content"] == "content"
    os.link(folder / "lock", tmp_path / "mine")
    with pytest.raises(ForeignEntryError, match=r"\] a file with another name elsewhere: ") as raised:
        own_files(folder)
    assert (raised.value.errno, raised.value.filename) == (errno.EMLINK, str(folder / "lock"))


def test_the_size_of_a_job_is_that_of_its_files(tmp_path: Path) -> None:
    Toy().run(tmp_path)
    folder = next(tmp_path.iterdir())
    (folder / "speech").mkdir()
    for name in ("speech/layer_00.f32", "speech/other", "notes.txt", "so_far.mp4"):
        (folder / name).write_bytes(bytes(1000))
    segments = sum(path.stat().st_size for path in segment_files(tmp_path))
    beside = sum((folder / name).stat().st_size for name in ("job.json", "holder.json", "lock", "so_far.mp4"))
    assert folder_size(folder) == segments + beside + 1000
    assert folder_size(folder, "speech") == 1000
    assert folder_size(folder, "segments", "speech") == segments + 1000
    assert folder_size(folder, "") == beside
    assert folder_size(tmp_path / "nowhere") == 0


def test_a_job_is_found_in_the_first_folder_that_is_one(tmp_path: Path) -> None:
    """Or in the first that is free; what is passed over is reported."""
    key, told = "ab" * 32, list[str]()
    name = key[:16]

    def found() -> str:
        told.clear()
        return job_folder(tmp_path, key, lambda error: told.append(Path(error.filename).name)).name

    assert job_folder(tmp_path / "nowhere", key).name == found() == name
    (tmp_path / name).write_text("mine")
    for other in (f"{name}-", f"{name}-1", f"{name}-02", f"{name}-1000000", f"x{name}-2", f"{name}-2x"):
        (tmp_path / other).mkdir()
    assert (found(), told) == (f"{name}-2", [name])
    (tmp_path / f"{name}-12").mkdir()
    assert (found(), told) == (f"{name}-12", [name]), "one that exists is taken before a free name"
    (tmp_path / f"{name}-2").symlink_to("nowhere")
    assert (found(), told) == (f"{name}-12", [name, f"{name}-2"])
    (tmp_path / f"{name}-12").rmdir()
    (tmp_path / f"{name}-3").write_text("mine")
    assert (found(), told) == (f"{name}-4", [name, f"{name}-2", f"{name}-3"])
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert (found(), told) == (name, [])


def change(**fields: Any) -> dict[str, Any]:
    return json.loads(Toy().manifest.text()) | fields


NO_MANIFESTS = [
    *({**change(), name: value} for name in ("key", "root", "headers") for value in ("A" * 64, "a" * 63, 1)),
    *({**change(), name: value} for name in ("segments", "frames", "format") for value in (True, "5", 5.0)),
    *(change(segments=number) for number in (0, 1_000_000, 72)),
    change(frames=100_000_001),
    change(finished=1),
    change(what=[]),
    *(change(what={"goes on from": text}) for text in ("../x", "a" * 16 + "-1000000", "a" * 17)),
]


def test_a_manifest_has_fields_that_a_job_can_have() -> None:
    for fields in NO_MANIFESTS:
        with pytest.raises(ValueError, match=r"job|keys|counts"):
            parse_manifest(fields)
    for fields in (
        change(segments=1, frames=1),
        change(segments=999_999, frames=100_000_000),
        change(segments=71, what={"goes on from": "a" * 16 + "-2.old-1"}, finished=True),
    ):
        assert json.loads(parse_manifest({**fields, "other": 1}).text()) == fields
    many = {str(number): "x\x1b[2J" for number in range(100)} | {"n": 1}
    shown = parse_manifest(change(what={"n": 1, **many})).what
    assert list(shown) == [str(number) for number in range(32)]
    assert "\x1b" not in "".join(shown.values())
