"""Of 800 portraits and 400 pairs of unseen drawn people how many faces are found, and how many where there is
none. ``make soak``."""

from statistics import mean

import pytest

pytest.importorskip("cv2", reason="OpenCV, of the extra `training`, draws")

from hallo3.face.detector import find_faces
from soak.machine import keep
from support.drawn_people import count_found, draw_empty, draw_scene

pytestmark = pytest.mark.soak
PORTRAITS, PAIRS, EMPTY = 800, 400, 480


def test_faces_of_unseen_drawn_people_are_found() -> None:
    single = count_found(draw_scene(f"{number}", 1) for number in range(PORTRAITS))
    pairs = count_found(draw_scene(f"{number}", 2) for number in range(PAIRS))
    empty = sum(bool(find_faces(draw_empty(f"{number}"))) for number in range(EMPTY))
    figures = {
        "portraits": single.scenes,
        "portraits found": single.all_found,
        "pairs": pairs.scenes,
        "pairs found": pairs.all_found,
        "pictures with more faces than people": single.too_many + pairs.too_many,
        "pictures without a face": EMPTY,
        "of them with a face found": empty,
        "intersection over union": round(mean(single.overlaps + pairs.overlaps), 3),
        "error of yaw in degrees": round(mean(single.yaw + pairs.yaw), 2),
        "error of pitch in degrees": round(mean(single.pitch + pairs.pitch), 2),
    }
    keep("drawn_faces.json", figures)
    assert single.all_found >= 0.99 * PORTRAITS
    assert pairs.all_found >= 0.98 * PAIRS
    assert empty == 0
    assert figures["error of yaw in degrees"] < 6
