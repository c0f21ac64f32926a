"""Redone segments, and videos that continue others."""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hallo3.errors import InputError, OutputError
from hallo3.jobs.job import JobManifest, inherit_segments, open_job
from hallo3.jobs.video_job import Redo, derive_seed, parse_redo
from hallo3.noise import make_noise
from hallo3.segments import SegmentPlan
from support.fault_injection import Fault, faults_in, flip_bit
from support.toy_renderer import FORM, PLAN, SEGMENTS, Toy, rerun


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


@pytest.mark.parametrize("text", ["0", "6", "3-2", "1-6", "a", "1-2-3", "-", "-3", "1,2", "9" * 30])
def test_a_redo_of_missing_segments_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="1 to 5"):
        parse_redo(text, 1, 5)


def test_segments_are_counted_from_one() -> None:
    assert [parse_redo(text, 1, 5) for text in ("2", "4-")] == [Redo(2, 2, 1), Redo(4, 5, 1)]
    assert parse_redo(" 2 - 4 ", 3, 5) == Redo(2, 4, 3)
    assert parse_redo("", 1, 5).last == 0
    with pytest.raises(InputError):
        parse_redo("2", 0, 5)
    assert parse_redo("4-", 1, 6, 3) == Redo(4, 6, 1)
    with pytest.raises(InputError, match="of 4 to 6"):  # 3 are inherited
        parse_redo("2-5", 1, 6, 3)


def test_every_take_has_its_own_seed() -> None:
    seeds = [derive_seed(seed, take, after) for seed in (0, 1) for take in (0, 1, 2) for after in ("", "x")]
    assert len(set(seeds)) == 12
    assert derive_seed(5, 0, "") == 5
    assert all(0 <= seed < 2**64 for seed in seeds)
