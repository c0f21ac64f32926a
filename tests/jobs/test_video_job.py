"""Redone segments, and videos that continue others."""

import shutil
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from hallo3.errors import Hallo3Error, InputError, OutputError
from hallo3.jobs import video_job
from hallo3.jobs.estimate import Throughput, read_throughput
from hallo3.jobs.job import JobManifest, inherit_segments, open_job, read_manifest
from hallo3.jobs.redo import Redo
from hallo3.jobs.video_job import create_manifest, derive_seed, open_parent, open_video_job
from hallo3.media.canvas import Canvas
from hallo3.media.mux import AI_COMMENT, decode_frames
from hallo3.noise import make_noise
from hallo3.pipeline import Rendered
from hallo3.segments import SegmentPlan
from hallo3.storage.hashing import hash_bytes, hash_file
from support.fault_injection import Fault, faults_in, flip_bit
from support.toy_renderer import (
    CANVAS,
    FORM,
    PLAN,
    SEGMENTS,
    VIDEO_FORM,
    Toy,
    make_video,
    open_video,
    render_video,
    rerun,
)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return Toy().run(tmp_path_factory.mktemp("wanted"))


def test_a_redo_renders_only_its_segments(tmp_path: Path, wanted: list[bytes]) -> None:
    Toy().run(tmp_path)
    pieces, rendered = rerun(tmp_path, Redo(2, 3, 1))
    assert rendered == [1, 2]
    assert [a == b for a, b in zip(pieces, wanted, strict=True)] == [True, False, False, True, True]
    for redo in (Redo(2, 3, 1), Redo(1, 0, 0)):  # redo again or not at all: nothing to render
        assert rerun(tmp_path, redo) == (pieces, [])
    other, rendered = rerun(tmp_path, Redo(3, 3, 2))
    assert rendered == [2]
    assert [a == b for a, b in zip(other, pieces, strict=True)] == [True, True, False, True, True]
    flip_bit(next(tmp_path.glob("*/segments/000002*")))
    assert rerun(tmp_path) == (other, [2]), "a damaged take is rendered again as the same take"


def test_later_segments_survive_any_sequence_of_takes(tmp_path: Path) -> None:
    draw, pieces = np.random.default_rng(1), Toy().run(tmp_path)
    for _ in range(40):
        first = int(draw.integers(1, SEGMENTS + 1))
        redo = Redo(first, int(draw.integers(first, SEGMENTS + 1)), int(draw.integers(1, 4)))
        before = pieces
        pieces, rendered = rerun(tmp_path, redo)
        assert all(redo.first <= index + 1 <= redo.last for index in rendered), redo
        outside = [n for n in range(SEGMENTS) if n not in rendered]
        assert all(pieces[n] == before[n] for n in outside)


@pytest.mark.parametrize("kind", ["full", "kill"])
def test_a_stopped_redo_is_resumed(tmp_path: Path, kind: str) -> None:
    redo = Redo(2, 4, 1)
    Toy().run(tmp_path / "wanted")
    wanted = Toy().run(tmp_path / "wanted", redo)
    for number in range(1, 1000):
        jobs, first = tmp_path / str(number), Toy()
        Toy().run(jobs)
        with faults_in(number, kind) as fault, suppress(OutputError, Fault):
            first.run(jobs, redo)
        if not fault:
            break
        assert rerun(jobs)[1] == [], "without the redo takes may mix, but the video is complete"
        pieces, rendered = rerun(jobs, redo)
        assert pieces == wanted
        assert len(first.rendered) + len(rendered) <= 4
    assert number > 15


def test_a_video_continues_another(tmp_path: Path, wanted: list[bytes]) -> None:
    Toy().run(tmp_path)
    more = Toy("70", SegmentPlan(40, PLAN.config), inherited=SEGMENTS)
    root, headers = Toy().manifest.key, FORM.headers
    more.manifest = JobManifest(key="a" * 64, root=root, segments=SEGMENTS + 3, frames=111, headers=headers)
    for _ in range(2):
        with open_job(tmp_path, more.manifest, FORM) as job:
            with open_job(tmp_path, Toy().manifest, FORM) as before:
                inherit_segments(job, before)
                more.render(job, parent=before)
            pieces = [job.piece(index) for index in range(SEGMENTS + 3)]
        assert pieces[:SEGMENTS] == wanted
        assert more.rendered == [0, 1, 2]
    with open_job(tmp_path, Toy().manifest, FORM) as before:
        noise = make_noise(derive_seed(3, 0, before.state))
        first = Toy().sample(before.motion(SEGMENTS - 1), more.plan[0], noise)
    expected = ((first * 2 - 1 + 1) / 2)[0, :, more.plan[0].keep].transpose(0, 1)
    assert pieces[SEGMENTS] == expected.contiguous().numpy().tobytes()
    shutil.rmtree(next(tmp_path.glob("aaa*")))
    with (
        open_job(tmp_path, more.manifest, FORM) as job,
        pytest.raises(InputError, match="not complete any more"),
    ):
        more.render(job)


def test_every_take_has_its_own_seed() -> None:
    seeds = [derive_seed(seed, take, after) for seed in (0, 1) for take in (0, 1, 2) for after in ("", "x")]
    assert len(set(seeds)) == 12
    assert derive_seed(5, 0, "") == 5
    assert all(0 <= seed < 2**64 for seed in seeds)


def look(path: Path) -> tuple[tuple[int, ...], float, str]:
    """A video's frames, height and width; seconds of its sound; its comment."""
    with av.open(path) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        file.seek(0)
        sound = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
        return np.stack(frames).shape[:3], sound, file.metadata.get("comment", "")


NARROW = Canvas(pixels=CANVAS + 0.5, rows=slice(0, 4), columns=slice(1, 5))
TWICE = replace(VIDEO_FORM, size=(8, 8))


def test_a_video_is_rendered_measured_and_joined(tmp_path: Path) -> None:
    """Without the bars of its canvas, twice as large, with its sound."""
    toy, heard, path = Toy(), list[tuple[int, str]](), tmp_path / "a.mp4"
    with open_video(
        tmp_path, toy, form=TWICE, canvas=NARROW, enlarge=2, similarity=lambda face: face.shape[2] / 8
    ) as video:
        results = render_video(video, toy, stage=lambda *each: heard.append(each))
        pieces = [video.job.piece(index) for index in range(SEGMENTS)]
        seconds = [result.record.seconds for result in results[1:]]
        drifts, shown = video.drifts(), video.frames(1)
        assert look(video.job.folder / "so_far.mp4")[2] == AI_COMMENT
        assert read_manifest(video.job.folder).finished is False
        video.join(path)
        assert sorted(p.name for p in video.job.folder.iterdir() if "unfinished" in p.name) == []
        manifest = read_manifest(video.job.folder)
        assert [*video.inherited_results()] == video.missing == []
    assert look(path) == ((PLAN.frames, 8, 8), pytest.approx(3, abs=0.2), AI_COMMENT)
    assert (manifest.finished, manifest.what["content"]) == (True, hash_file(path))
    assert manifest.what["made with"] == "toy"
    stages = [[name for index, name in heard if index == n] for n in range(SEGMENTS)]
    assert {(each[0], each[1], each[-1]) for each in stages} == {("encoding", "sampling", "saving")}
    size = sum(map(len, pieces)) / PLAN.frames
    assert read_throughput(tmp_path, "toy") == Throughput(median(seconds), size)
    assert [result.pixels.shape[1:] for result in results] == [(3, 4, 6)] * SEGMENTS
    enlarged = torch.nn.functional.interpolate(results[1].pixels[..., 1:5], scale_factor=2, mode="bicubic")
    assert torch.equal(shown, decode_frames(pieces[1]))
    assert (shown - enlarged.clamp(0, 1)).abs().mean() < 0.15
    assert [drift.seam is None for drift in drifts] == [True] + [False] * (SEGMENTS - 1)
    assert all((drift.face, drift.sharpness > 0, drift.colour > 5) == (0.5, True, True) for drift in drifts)
    assert max(abs(drift.seam - 1) for drift in drifts[1:]) < 0.5, "noise changes as much everywhere"


def test_kept_frames_are_shown_as_the_video_shows_them(tmp_path: Path) -> None:
    turned: Any = SimpleNamespace(paste=lambda frames: frames.flip(-1))
    for options, change in (
        ({"canvas": NARROW}, lambda frames: frames),
        ({"paste_back": turned}, lambda frames: frames.flip(-1)),
    ):
        toy = Toy("8" if "canvas" in options else "9")
        size = (4, 4) if "canvas" in options else (6, 4)
        form = replace(VIDEO_FORM, size=size)
        with open_video(tmp_path, toy, form=form, keep_pixels=True, **options) as video:
            render_video(video, toy)
            pixels = video.canvas.uncrop(video.job.pixels(2))
            assert torch.equal(video.frames(2), change(pixels))
            encoded = decode_frames(video.job.piece(2))
            assert encoded.shape == pixels.shape == (15, 3, *size[::-1])
            near, far = ((encoded - each).abs().mean() for each in (change(pixels), change(pixels).flip(-1)))
            assert near < 0.2 < far


def test_sound_is_encoded_once_and_again_if_it_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, encoded, real = Toy(), list[str](), video_job.encode_soundtrack

    def encode(parts: Any, path: Path, track: int | None) -> None:
        encoded.append(f"{path.name} {track} {[float(seconds) for _, seconds in parts]}")
        real(parts, path, None)

    monkeypatch.setattr(video_job, "encode_soundtrack", encode)
    with open_video(tmp_path, toy, track=7) as video:
        folder = video.job.folder
        path = video.soundtrack()
        whole, wanted = path.read_bytes(), f"sound.{hash_file(path)[:16]}.mp4"
        assert encoded == [f"sound.new.mp4.unfinished 7 [{PLAN.frames / 25}]"]
        assert path == video.soundtrack() == folder / wanted
        assert len(encoded) == 1
        short, long = tmp_path / "short.mp4", tmp_path / "long.mp4"
        for other, seconds in ((short, -1), (long, 1)):
            real([(video.recording, Fraction(PLAN.frames, 25) + seconds)], other)
        limit = int((PLAN.frames / 25 + 60) * (1 << 17))
        for content, name in (
            (whole[:-1] + b"x", wanted),
            (whole, "sound.0123456789abcdef.mp4"),
            (b"no sound", f"sound.{hash_bytes(b'no sound')[:16]}.mp4"),
            (short.read_bytes(), f"sound.{hash_file(short)[:16]}.mp4"),
            (long.read_bytes(), f"sound.{hash_file(long)[:16]}.mp4"),
            (bytes(limit + 99), f"sound.{hash_bytes(bytes(limit + 99))[:16]}.mp4"),
        ):
            encoded.clear()
            path.unlink()
            (folder / name).write_bytes(content)
            assert video.soundtrack() == path
            assert [each.name for each in folder.glob("sound*")] == [wanted]
            assert (path.read_bytes(), len(encoded)) == (whole, 1)


def test_sound_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed() -> None:
        raise InputError("Changed.", found="x", expected="y", fix="z")

    with open_video(tmp_path, Toy(), check_recording=changed) as video:
        with pytest.raises(InputError, match="Changed"):
            video.soundtrack()
        assert not [*video.job.folder.glob("sound.?????*.mp4")]
    with open_video(tmp_path, Toy()) as video:
        full = OSError(28, "No space left on device", str(video.job.folder / "disk"))
        monkeypatch.setattr(video_job, "finalize_file", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(OutputError, match=r"video's sound cannot be written(?s:.*)disk: No space left"):
            video.soundtrack()
        assert not [*video.job.folder.glob("sound*")]


def test_a_video_with_sound_continues_another(tmp_path: Path) -> None:
    first = make_video(tmp_path, tmp_path / "a.mp4")
    toy, more = Toy(), Toy("ab", SegmentPlan(40, PLAN.config))
    form, made = VIDEO_FORM, replace(toy.manifest, headers=VIDEO_FORM.headers)
    assert first == [*range(SEGMENTS)]
    with open_parent(tmp_path, made, form) as parent:
        with open_video(tmp_path, more, parent=parent) as video:
            manifest = video.job.manifest
            assert (manifest.segments, manifest.frames, manifest.root) == (SEGMENTS + 3, 111, made.key)
            assert manifest.what["goes on from"] == parent.folder.name
            assert (video.inherited, video.missing) == (SEGMENTS, [5, 6, 7])
            stages = list[int]()
            results = render_video(video, more, stage=lambda index, _: stages.append(index))
            assert [result.index for result in results] == [*range(SEGMENTS + 3)]
            assert [result.pixels is None for result in results] == [True] * SEGMENTS + [False] * 3
            assert {*stages} == {5, 6, 7}
            video.join(tmp_path / "b.mp4")
        assert look(tmp_path / "b.mp4")[:2] == ((111, 4, 6), pytest.approx(111 / 25, abs=0.2))
        for path in parent.folder.glob("sound*"):
            path.unlink()
        for path in video.job.folder.glob("sound*"):
            path.unlink()
        with pytest.raises(OutputError, match=f"job {parent.folder.name} without it"):
            video.soundtrack()
        with pytest.raises(InputError, match="has another format"):
            open_parent(tmp_path, replace(made, headers="0" * 64), form)
        for spoil, message in (
            (lambda: setattr(parent, "manifest", replace(made, frames=70)), "other lengths"),
            (lambda: parent.records.__setitem__(2, None), "segment 3 is missing"),
        ):
            spoil()
            with pytest.raises(InputError, match=message):
                create_manifest("c" * 64, more.plan, form.headers, {}, parent)
    alone = create_manifest("c" * 64, PLAN, form.headers, {"portrait": "x"}, None)
    assert (alone.root, alone.segments, alone.frames) == ("c" * 64, SEGMENTS, PLAN.frames)
    assert alone.what == {"portrait": "x"}


MACHINES = {
    "the same": ("toy", "toy", ""),
    "another": ("other", "toy", "begun with toy; here it is other: frames that are"),
    "the first again": ("toy", "toy; other", "begun with other; here it is toy"),
    "version 0.1.0's": ("other, cpu", "toy; other", ""),
}


def test_frames_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    for name in ("pixels", "motion"):
        with open_video(tmp_path, Toy()) as video:
            values = {"pixels": torch.zeros(15, 3, 4, 6), "motion": torch.zeros(1, 3, 2, 4, 6)}
            values[name][0, 0, 0, 0] = float("nan")
            with pytest.raises(Hallo3Error, match="infinity in segment 2"):
                video.save(PLAN[1], Rendered(**values))
            assert not [*video.job.folder.glob("segments/*")]
            video.job.note("made with", "toy; b; toy; c")
            video.save(PLAN[0], Rendered(torch.zeros(15, 3, 4, 6), torch.zeros(1, 3, 2, 4, 6)))
            assert video.job.manifest.what["made with"] == "b; c; toy"
            video.job.path(0).unlink()


def test_a_job_notes_its_machines_and_keeps_its_threads(tmp_path: Path) -> None:
    """As its folder has them, whatever computes now."""
    manifest, here = Toy().manifest, torch.get_num_threads()

    def opened(machine: str, threads: int) -> tuple[str, str, int, str]:
        told = list[str]()
        torch.set_num_threads(threads)
        with open_video_job(tmp_path, manifest, FORM, None, machine, told.append) as job:
            inside, what = torch.get_num_threads(), job.manifest.what
        assert torch.get_num_threads() == threads
        return what["made with"], what["threads"], inside, "".join(told)

    try:
        assert opened("toy", 2) == ("toy", "2", 2, "")
        for machine, made, message in MACHINES.values():
            with open_job(tmp_path, replace(manifest, what={"made with": made, "threads": "2"}), FORM):
                pass
            found = opened(machine, 1)
            assert found[:3] == (made, "2", 2)
            assert (message in found[3], bool(message)) == (True, bool(found[3])), found
        other = replace(manifest, key=manifest.key[:-1] + "1")
        with open_video_job(tmp_path, other, FORM, None, "new", pytest.fail) as job:
            assert (job.manifest.what["made with"], job.manifest.what["threads"]) == ("new", "1")
    finally:
        torch.set_num_threads(here)
