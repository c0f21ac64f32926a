"""Scenes show the mouth that their speech asks for, on time, in the light of their prompt."""

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from behaviour.mouth import Mouth, compute_mouth
from behaviour.pixels import measure_opening
from hallo3.config import BUILT_IN
from hallo3.segments import SILENT
from training.drawing import draw
from training.faces import MAX_OPEN_HEIGHT, MOUTH_INSIDE, Pose, make_person
from training.motion import LIGHTS
from training.scenes import PRECEDING_FRAMES, SpeechTrack, make_scene

SEGMENT = BUILT_IN.segment


@pytest.fixture(scope="module")
def track() -> SpeechTrack:
    """Bursts of noise, a second each, with pauses."""
    r = np.random.default_rng(0)
    loudness = np.repeat([1, 0.01] * 4, 16000).astype(np.float32)
    sound = r.standard_normal(16000 * 8, dtype=np.float32) * loudness
    return SpeechTrack(sound, compute_mouth(sound, 200))


def test_the_name_decides_the_scene(track: SpeechTrack) -> None:
    one, other, third = (make_scene(name, track, SEGMENT) for name in ("a", "a", "b"))
    assert one == other != third
    assert np.array_equal(one.draw_frames(64), other.draw_frames(64))


@pytest.mark.parametrize("number", range(12))
def test_mouths_open_as_the_speech_asks(track: SpeechTrack, number: int) -> None:
    scene = make_scene(f"scene {number}", track, SEGMENT)
    frames = torch.from_numpy(scene.draw_frames(64)).permute(0, 3, 1, 2)[PRECEDING_FRAMES:] / 255
    light = torch.tensor(LIGHTS[scene.light]) if scene.light else torch.ones(3)
    portrait = torch.from_numpy(draw(make_person(scene.person), Pose(), 64)).permute(2, 0, 1) / 255
    rows = measure_opening(frames / light[:, None, None], portrait)
    for row, slot in zip(rows.tolist(), scene.slots, strict=True):
        if slot != SILENT:
            target = track.mouth.open[max(slot, 0)] if slot < 200 else 0.0
            assert abs(row - 64 * MAX_OPEN_HEIGHT * target) < 1.5


def test_first_segments_begin_as_the_portrait(track: SpeechTrack) -> None:
    scenes = [make_scene(f"scene {number}", track, SEGMENT) for number in range(60)]
    first = [scene for scene in scenes if scene.first]
    assert 5 < len(first) < 30
    for scene in first:
        assert scene.slots[:2] == (SILENT, SILENT)
        start, reference = scene.path[PRECEDING_FRAMES], scene.reference
        assert (start.x, start.y) == pytest.approx((reference.x, reference.y), abs=0.01)
        assert start.open == pytest.approx(reference.open)
    assert all((scene.light or "") in scene.prompt for scene in scenes)
    assert any(scene.light for scene in scenes)
    assert any(not scene.prompt for scene in scenes)


def test_the_mouth_box_contains_the_mouth() -> None:
    still = Mouth(np.zeros(10, np.float32), np.full(10, 0.5, np.float32))
    for number in range(10):
        scene = make_scene(f"x{number}", SpeechTrack(np.zeros(6400, np.float32), still), SEGMENT)
        wide_open = draw(make_person(scene.person), scene.path[-1]._replace(open=1.0), 64).astype(int)
        left, top, right, bottom = scene.locate_mouth(64)
        dark = np.abs(wide_open - MOUTH_INSIDE).sum(axis=2) < 20
        inside = dark[top:bottom, left:right].sum()
        assert inside > 40
        assert inside >= dark[30:].sum() - 1
