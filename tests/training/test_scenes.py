"""Scenes show what their speech and prompt ask for, on time, in front of what the portrait shows."""

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from behaviour.mouth import Mouth, compute_mouth
from hallo3.config import BUILT_IN
from hallo3.segments import SILENT
from training.drawing import Canvas, draw_person
from training.faces import MOUTH_INSIDE, Head, Person, Place, Pose, locate_mouth, make_person
from training.grounds import GROUNDS, WEATHERS, Ground
from training.pictures import LIGHTS, Cast, Look, draw_frame, to_pixel_box
from training.prompts import LOOKS, WORDS
from training.scenes import PRECEDING_FRAMES, Scene, SpeechTrack, make_scene
from training.things import THINGS

SEGMENT = BUILT_IN.segment
SIZE = SEGMENT.height, SEGMENT.width


def make_track(seed: int) -> SpeechTrack:
    """Bursts of noise, a second each, with pauses."""
    r = np.random.default_rng(seed)
    loudness = np.repeat([1, 0.01] * 4, 16000).astype(np.float32)
    sound = r.standard_normal(16000 * 8, dtype=np.float32) * loudness
    return SpeechTrack(sound, compute_mouth(sound, 200))


@pytest.fixture(scope="module")
def tracks() -> list[SpeechTrack]:
    return [make_track(0), make_track(1)]


@pytest.fixture(scope="module")
def scenes(tracks: list[SpeechTrack]) -> list[Scene]:
    return [make_scene(f"scene {number}", tracks, SEGMENT) for number in range(120)]


def test_the_name_decides_the_scene(tracks: list[SpeechTrack]) -> None:
    one, other, third = (make_scene(name, tracks, SEGMENT) for name in ("a", "a", "b"))
    assert one == other != third
    assert np.array_equal(one.draw_frames(*SIZE), other.draw_frames(*SIZE))


def test_everyone_speaks_their_own_speech_or_is_silent(
    scenes: list[Scene], tracks: list[SpeechTrack]
) -> None:
    silent = 0
    for scene in scenes:
        for path, slots, track in zip(scene.paths, scene.slots, tracks, strict=False):
            silent += slots[-1] == SILENT
            for pose, slot in zip(path[PRECEDING_FRAMES:], slots, strict=True):
                if slot != SILENT:
                    assert pose.open == pytest.approx(track.mouth.open[max(slot, 0)] if slot < 200 else 0.0)
                elif slots[-1] == SILENT and not scene.first:
                    assert pose.open == 0
    pairs = sum(len(scene.cast.names) == 2 for scene in scenes)
    assert 25 < pairs < 70
    assert pairs * 0.3 < silent < pairs * 0.7


def test_first_segments_begin_as_the_portrait(scenes: list[Scene]) -> None:
    first = [scene for scene in scenes if scene.first]
    assert 20 < len(first) < 60
    for scene in first:
        for slots, path, reference in zip(scene.slots, scene.paths, scene.references, strict=True):
            assert slots[:2] == (SILENT, SILENT)
            start = path[0]
            assert start[:5] == pytest.approx(reference[:5], abs=1e-6)
            assert path[PRECEDING_FRAMES].open == pytest.approx(reference.open)


def test_prompts_name_what_the_portrait_does_not_show(scenes: list[Scene]) -> None:
    def names(scene: Scene, key: str) -> bool:
        return bool(set(WORDS[key]) & set(scene.prompt.split()))

    changed = 0
    for scene in scenes:
        before, now = scene.portrait, scene.look
        added = set(now.things) - set(before.things)
        for key in (*GROUNDS, *THINGS, *WEATHERS):
            here = key in (now.ground.kind, now.ground.weather, *now.things)
            assert not names(scene, key) or here
        if now.ground.kind != before.ground.kind:
            added.add(now.ground.kind)
        if now.ground.weather != before.ground.weather:
            added.add(now.ground.weather)
        assert all(names(scene, key) for key in added)
        changed += bool(added)
        assert (now.light is None) or now.light in scene.prompt.split()
    assert changed > 40
    assert any(not scene.prompt for scene in scenes)


def test_words_have_one_meaning() -> None:
    known = [
        *LIGHTS,
        *(w for words in WORDS.values() for w in words),
        *(w for t in LOOKS.values() for w in t.words),
    ]
    assert len(known) == len(set(known))


@pytest.mark.parametrize("yaw", [-60, -30, 0, 45])
def test_a_turned_mouth_is_where_it_is_said_to_be(yaw: int) -> None:
    for number in range(4):
        person, place = make_person(f"x{number}"), Place(0.75, 0.5, 0.9)
        pose = Pose(yaw=np.radians(yaw), pitch=np.radians(10 * number - 15), open=1.0)
        dark = _find_dark(person, pose, place) & ~_find_dark(person, pose._replace(open=0.0), place)
        left, top, right, bottom = to_pixel_box(locate_mouth(person, pose, place), 96)
        inside = dark[top:bottom, left:right].sum()
        assert inside > 40
        assert inside >= 0.95 * dark.sum()


def _find_dark(person: Person, pose: Pose, place: Place) -> NDArray[np.bool_]:
    canvas = Canvas(96, 144)
    draw_person(canvas, person, pose, place)
    return np.abs(canvas.reduce().astype(int) - MOUTH_INSIDE).sum(axis=2) < 30


def test_the_head_turns_as_a_globe() -> None:
    person = make_person("anyone")
    front = np.array(((0.0, 0.0, 1.0),))
    for yaw in np.radians([-60, 0, 30]):
        x, y = Head(person, Pose(yaw=float(yaw)), Place(0.75, 0.5, 1.0)).project(front)[0]
        assert x - 0.75 == pytest.approx(person.width * np.sin(yaw))
        assert y == pytest.approx(0.5)


@pytest.mark.parametrize("kind", [*GROUNDS, *WEATHERS])
def test_places_move_and_walls_do_not(kind: str) -> None:
    ground = Ground("wall", "here", kind) if kind in WEATHERS else Ground(kind, "here")
    cast = Cast(("someone",), (Place(0.75, 0.5, 0.7),))
    one, next_one, later = (
        draw_frame(Look(ground), cast, [Pose()], frame, *SIZE).astype(int) for frame in (0, 1, 20)
    )
    moved = np.abs(later - one).mean()
    assert (moved == 0) if kind == "wall" else (moved > 1 and np.abs(next_one - one).mean() < moved)


def test_still_mouths_of_silent_tracks() -> None:
    still = Mouth(np.zeros(10, np.float32), np.full(10, 0.5, np.float32))
    scene = make_scene("quiet", [SpeechTrack(np.zeros(6400, np.float32), still)] * 2, SEGMENT)
    assert all(pose.open == 0 for path in scene.paths for pose in path[PRECEDING_FRAMES + 2 :])
