"""What happens with the portraits that people have: which face is used, what is said, what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hallo3.config import FaceConfig
from hallo3.errors import FaceError
from hallo3.face.analyzer import analyze_portrait
from hallo3.face.landmarks import SILHOUETTE
from hallo3.face.photo import PhotographAnalyzer
from hallo3.face.scrfd import DetectedFace
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox
from support.messages import collect_messages, expect_message

PICTURE = torch.rand(3, 400, 600, generator=torch.Generator().manual_seed(3))
NAN = float("nan")


def found(
    left: float,
    top: float,
    right: float,
    bottom: float,
    score: float = 0.9,
    *,
    turn: float = 0,
    visible: float = 1,
) -> DetectedFace:
    """A face that looks ahead, or turned by so many half distances of its eyes."""
    box, wide, tall = PixelBox(left, top, right, bottom), right - left, bottom - top
    shares = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5 + 0.2 * turn, 0.6], [0.35, 0.8], [0.65, 0.8]])
    points = shares * torch.tensor([wide, tall]) + torch.tensor([left, top])
    return DetectedFace(box, score, points, visible)


def known(picture: Tensor, landmarks: Tensor) -> Tensor:
    """An embedding that says which face it is of: where its left eye is."""
    del picture
    return torch.cat((landmarks[0], torch.ones(510)))[None]


def analyzer(*faces: DetectedFace, **wanted: object) -> PhotographAnalyzer:
    choice = replace(FaceChoice(), **wanted) if wanted else FaceChoice()  # type: ignore[arg-type]
    return PhotographAnalyzer(detect=lambda _: list(faces), embed=known, choice=choice)


def used(judge: PhotographAnalyzer) -> tuple[float, list[str]]:
    """The left edge of the face that is used, and what is said."""
    with collect_messages() as said:
        face = analyze_portrait(PICTURE, judge, FaceConfig())
    assert torch.isfinite(face.embedding).all()
    assert face.mask.unique().tolist() in ([0, 1], [1])
    chosen = judge.select(PICTURE).face
    return (chosen.box.left if chosen else -1), list(said)


LARGE, SMALLER, RIGHT = found(200, 100, 380, 300), found(40, 100, 180, 280), found(400, 100, 540, 280)
DEFINED = {
    "one": ((LARGE,), 200, None),
    "three, the largest": (
        (SMALLER, RIGHT, LARGE),
        200,
        r"3 faces .* number 2 from the left .* the largest\. .*1 to 3",
    ),
    "two alike, the left-most": ((RIGHT, SMALLER), 40, r"2 faces .* number 1 from the left .* left-most"),
    "alike within a hundredth": ((found(400, 100, 541, 280), SMALLER), 40, "left-most"),
    "not quite alike": (
        (found(400, 100, 542, 280), SMALLER),
        400,
        "number 2 from the left is used, the largest",
    ),
    "low score": ((found(200, 100, 380, 300, 0.55),), 200, r"doubtful \(score 0\.55"),
    "no score that is sure": ((found(200, 100, 380, 300, 0.3),), 200, r"very doubtful \(score 0\.30"),
    "a doubtful face beside a sure one": ((found(0, 0, 300, 300, 0.45), LARGE), 200, None),
    "profile": ((found(200, 100, 380, 300, turn=1),), 200, r"from the side \(score 0\.90"),
    "three quarters": ((found(200, 100, 380, 300, turn=0.5),), 200, None),
    "cut off": ((found(0, 100, 150, 300, visible=0.6),), 0, r"cut off .* 60%"),
    "small": ((found(200, 100, 300, 215),), 200, r"small, 4\.8% of the picture"),
    "just large enough": ((found(200, 100, 300, 221),), 200, None),
    "all of the picture": ((found(0, 0, 600, 400),), 0, None),
}


@pytest.mark.parametrize(("faces", "left", "said"), DEFINED.values(), ids=DEFINED.keys())
def test_every_kind_of_portrait_has_its_behaviour(
    faces: tuple[DetectedFace, ...], left: float, said: str | None
) -> None:
    chosen, notes = used(analyzer(*faces))
    assert chosen == left
    assert len(notes) == (said is not None)
    assert said is None or re.search(said, notes[0])


@pytest.mark.parametrize(("index", "left"), [(0, 200), (1, 40), (2, 200), (3, 400)])
def test_another_face_can_be_chosen_from_left_to_right(index: int, left: float) -> None:
    chosen, notes = used(analyzer(SMALLER, RIGHT, LARGE, index=index))
    assert chosen == left
    assert len(notes) == (index == 0)


@pytest.mark.parametrize("index", [-1, 4, 100])
def test_a_number_that_no_face_has_is_refused(index: int) -> None:
    with pytest.raises(FaceError, match="1 to 3 from the left"):
        analyzer(SMALLER, RIGHT, LARGE, index=index).select(PICTURE)


@pytest.mark.parametrize("wanted", [{}, {"index": 2}, {"box": PixelBox(0, 0, 50, 50)}], ids=str)
def test_no_face_is_an_error_unless_the_whole_picture_may_be_used(wanted: dict[str, object]) -> None:
    with pytest.raises(FaceError, match=r"No face was found(.|\n)*allow the whole picture"):
        used(analyzer(**wanted))
    judge = analyzer(**wanted, whole_picture=True)
    chosen, notes = used(judge)
    assert chosen == -1
    assert "without an identity" in notes[0]
    with expect_message("whole picture"):
        face = judge.analyze(PICTURE)
    assert face.embedding.shape == (1, 512)
    assert not face.embedding.any()
    assert face.mask.all() == ("box" not in wanted)


def test_the_detector_s_box_becomes_the_mask() -> None:
    mask = analyzer(LARGE).analyze(PICTURE).mask
    assert mask.sum() == 216 * 240
    assert mask[80:320, 182:398].all()


def test_landmarks_make_the_mask_where_they_are_found() -> None:
    points = torch.tensor([270.0, 160]).repeat(478, 1)
    points[SILHOUETTE[0]], points[SILHOUETTE[1]] = torch.tensor([220.0, 110]), torch.tensor([320.0, 210])
    asked: list[DetectedFace] = []

    def finder(picture: Tensor, face: DetectedFace) -> Tensor | None:
        assert picture is PICTURE
        asked.append(face)
        return points if face is LARGE else None

    judge = replace(analyzer(LARGE), landmarks=finder)
    assert (
        judge.analyze(PICTURE).mask[100:220, 210:330].sum() == judge.analyze(PICTURE).mask.sum() == 120 * 120
    )
    elsewhere = replace(analyzer(RIGHT), landmarks=finder)
    assert torch.equal(elsewhere.select(PICTURE).mask, analyzer(RIGHT).select(PICTURE).mask)
    assert asked[-1] is RIGHT


def test_a_given_box_says_whose_face_and_where_the_mask_is() -> None:
    judge = analyzer(SMALLER, LARGE, box=PixelBox(50, 100, 150, 200))
    assert used(judge) == (40, [])
    assert judge.select(PICTURE).mask[90:210, 40:160].all()
    assert judge.select(PICTURE).mask.sum() == 120 * 120
    with pytest.raises(FaceError, match="no face in the given place"):
        used(analyzer(SMALLER, LARGE, box=PixelBox(0, 0, 30, 30)))


def test_a_given_mask_is_used_as_it_is() -> None:
    mask = torch.zeros(400, 600)
    mask[120:200, 60:100] = 0.8
    mask[0, 0] = 0.2
    judge = analyzer(SMALLER, LARGE, mask=mask)
    assert used(judge) == (40, [])
    assert torch.equal(judge.select(PICTURE).mask, (mask > 0.5).float())


@pytest.mark.parametrize("mask", [torch.ones(600, 400), torch.zeros(400, 600), torch.ones(1, 400, 600)])
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor) -> None:
    with pytest.raises(FaceError, match="face mask cannot be used"):
        analyzer(LARGE, mask=mask).select(PICTURE)


@pytest.mark.parametrize("box", [(NAN, 0, 9, 9), (0, 0, 9, NAN), (0, 0, float("inf"), 9)], ids=str)
def test_boxes_that_are_not_finite_are_an_error(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(FaceError, match=r"box cannot be used|not finite"):
        analyzer(DetectedFace(PixelBox(*box), 0.9, LARGE.landmarks)).select(PICTURE)
