"""What scenes show: the mouth that the recording asks for, on time, in the light of the prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from behaviour.mouth import Mouth, mouth_of
from behaviour.pixels import opening
from hallo3.config import BUILT_IN
from hallo3.segments import SILENT
from training.clips import rows_around, windows_of
from training.drawing import draw
from training.faces import MOUTH_INSIDE, Pose, person_named
from training.motion import LIGHTS
from training.scenes import BEFORE, Recording, scene_named

SEGMENT = BUILT_IN.segment


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Bursts of noise, a second each, with pauses."""
    r = np.random.default_rng(0)
    loudness = np.repeat([1, 0.01] * 4, 16000).astype(np.float32)
    sound = r.standard_normal(16000 * 8, dtype=np.float32) * loudness
    return Recording(sound, mouth_of(sound, 200))


def test_the_same_name_is_the_same_scene(recording: Recording) -> None:
    one, other, third = (scene_named(name, recording, SEGMENT) for name in ("a", "a", "b"))
    assert one == other != third
    assert np.array_equal(one.frames(64), other.frames(64))


@pytest.mark.parametrize("number", range(12))
def test_pixels_open_as_the_recording_asks(recording: Recording, number: int) -> None:
    scene = scene_named(f"scene {number}", recording, SEGMENT)
    frames = torch.from_numpy(scene.frames(64)).permute(0, 3, 1, 2)[BEFORE:] / 255
    light = torch.tensor(LIGHTS[scene.light]) if scene.light else torch.ones(3)
    rows = opening(frames / light[:, None, None], torch.from_numpy(picture(scene.person)))
    asked = [recording.mouth.open[max(slot, 0)] if slot < 200 else 0.0 for slot in scene.slots]
    heard = [index for index, slot in enumerate(scene.slots) if slot != SILENT]
    error = [abs(float(rows[i]) - 8.64 * asked[i]) for i in heard]
    assert max(error) < 1.5


def picture(person: str) -> np.ndarray:
    return np.moveaxis(draw(person_named(person), Pose(), 64), -1, 0).astype(np.float32) / 255


def test_first_segments_begin_as_the_portrait(recording: Recording) -> None:
    scenes = [scene_named(f"scene {number}", recording, SEGMENT) for number in range(60)]
    first = [scene for scene in scenes if scene.first]
    assert 5 < len(first) < 30
    for scene in first:
        assert scene.slots[:2] == (SILENT, SILENT)
        begun, reference = scene.path[BEFORE], scene.reference
        assert (begun.x, begun.y) == pytest.approx((reference.x, reference.y), abs=0.01)
        assert begun.open == pytest.approx(reference.open)
    assert all((scene.light or "") in scene.prompt for scene in scenes)
    assert any(scene.light for scene in scenes)
    assert any(not scene.prompt for scene in scenes)


def test_rows_become_the_windows_of_a_render() -> None:
    """As ``Speech.segment`` cuts them, at the beginning, in the middle and beyond the end."""
    from hallo3.segments import SegmentPlan
    from hallo3.speech.features import Speech, in_memory

    plan = SegmentPlan(70, SEGMENT)
    features = torch.randn(plan.padded, 3, 4, generator=torch.Generator().manual_seed(0))
    speech = Speech(in_memory(features), plan, 5)
    for index in range(len(plan)):
        slots = plan[index].slots
        first = torch.tensor([float(index == 0)])
        rows = rows_around(features, tuple(range(31 * index - 2, 31 * index + 31)), 5)
        if max(slots) < plan.padded - 1:
            assert torch.equal(windows_of(rows[None], first, 5, 2), speech.segment(index))


def test_the_mouth_box_holds_the_mouth() -> None:
    for number in range(10):
        scene = scene_named(f"x{number}", Recording(np.zeros(6400, np.float32), still()), SEGMENT)
        who = person_named(scene.person)
        wide_open = draw(who, scene.path[-1]._replace(open=1.0), 64).astype(int)
        left, top, right, bottom = scene.mouth(64)
        dark = np.abs(wide_open - MOUTH_INSIDE).sum(axis=2) < 20
        in_the_box = dark[top:bottom, left:right].sum()
        assert in_the_box > 40
        assert in_the_box >= dark[30:].sum() - 1


def still() -> Mouth:
    return Mouth(np.zeros(10, np.float32), np.full(10, 0.5, np.float32))
