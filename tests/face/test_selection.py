"""Which face of a portrait is used, and the notes for the user (catalogue I11 to I16)."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.config import FaceConfig
from hallo3.errors import FaceError
from hallo3.face.photo import PhotographAnalyzer
from hallo3.face.registry import analyze_portrait
from hallo3.face.scrfd import DetectedFace
from hallo3.face.selection import FaceChoice
from hallo3.geometry import PixelBox
from support.messages import collect_messages

PICTURE = torch.rand(3, 400, 600, generator=torch.Generator().manual_seed(3))


def face(*edges: float, score: float = 0.9, turn: float = 0, visible: float = 1) -> DetectedFace:
    """A frontal face, or one turned by a number of half eye distances."""
    size, corner = torch.tensor([edges[2] - edges[0], edges[3] - edges[1]]), torch.tensor(edges[:2])
    shares = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5 + 0.2 * turn, 0.6], [0.35, 0.8], [0.65, 0.8]])
    return DetectedFace(PixelBox(*edges), score, shares * size + corner, visible)


def embed(_: Tensor, landmarks: Tensor) -> Tensor:
    return torch.cat((landmarks[0], torch.ones(510)))[None]


def make_analyzer(*faces: DetectedFace, **choice: Any) -> PhotographAnalyzer:
    return PhotographAnalyzer(detect=lambda _: list(faces), embed=embed, choice=FaceChoice(**choice))


def analyze(analyzer: PhotographAnalyzer) -> tuple[float, list[str]]:
    """The left edge of the face that is used (-1 for the whole picture), and the notes."""
    with collect_messages() as notes:
        result = analyze_portrait(PICTURE, analyzer, FaceConfig())
    assert result.embedding.shape == (1, 512)
    assert torch.isfinite(result.embedding).all()
    assert result.mask.unique().tolist() in ([0, 1], [1])
    assert bool(result.embedding.any()) == (result.index is not None)
    return (-1 if result.index is None else result.boxes[result.index].left), list(notes)


LARGE, SMALLER, RIGHT = face(200, 100, 380, 300), face(40, 100, 180, 280), face(400, 100, 540, 280)
PORTRAITS = {
    "one": ((LARGE,), 200, None),
    "three, the largest": ((SMALLER, RIGHT, LARGE), 200, r"3 faces .* number 2 from .* largest\. .*1 to 3"),
    "two alike, the left-most": ((RIGHT, SMALLER), 40, r"2 faces .* number 1 from the left .* left-most"),
    "alike within a hundredth": ((face(400, 100, 541, 280), SMALLER), 40, "left-most"),
    "not quite alike": ((face(400, 100, 542, 280), SMALLER), 400, "number 2 .* is used, the largest"),
    "low score": ((replace(LARGE, score=0.55),), 200, r"is doubtful \(score 0\.55"),
    "I14 no confident score": ((replace(LARGE, score=0.3),), 200, r"very doubtful \(score 0\.30 of 1"),
    "a doubtful face beside a sure one": ((face(0, 0, 300, 300, score=0.45), LARGE), 200, None),
    "profile": ((face(200, 100, 380, 300, turn=1),), 200, r"from the side \(score 0\.90"),
    "three quarters": ((face(200, 100, 380, 300, turn=0.5),), 200, None),
    "cut off": ((face(0, 100, 150, 300, visible=0.6),), 0, r"cut off .* 60%"),
    "small": ((face(200, 100, 300, 215),), 200, r"small, 4\.8% of the picture"),
    "just large enough": ((face(200, 100, 300, 221),), 200, None),
    "all of the picture": ((face(0, 0, 600, 400),), 0, None),
}


@pytest.mark.parametrize(("faces", "left", "note"), PORTRAITS.values(), ids=PORTRAITS.keys())
def test_every_kind_of_portrait(faces: tuple[DetectedFace, ...], left: float, note: str | None) -> None:
    used, notes = analyze(make_analyzer(*faces))
    assert (used, len(notes)) == (left, note is not None)
    assert note is None or re.search(note, notes[0])


def test_a_face_is_chosen_by_its_number_from_the_left() -> None:
    for index, left in enumerate((200, 40, 200, 400)):
        used, notes = analyze(make_analyzer(SMALLER, RIGHT, LARGE, index=index))
        assert (used, len(notes)) == (left, index == 0)
    for index in (-1, 4, 100):
        with pytest.raises(FaceError, match="1 to 3 from the left"):
            make_analyzer(SMALLER, RIGHT, LARGE, index=index).select(PICTURE)


@pytest.mark.parametrize("choice", [{}, {"index": 2}, {"box": PixelBox(0, 0, 50, 50)}], ids=str)
def test_no_face_is_an_error_unless_the_whole_picture_may_be_used(choice: dict[str, Any]) -> None:
    with pytest.raises(FaceError, match=r"No face was found(.|\n)*allow the whole picture"):
        analyze(make_analyzer(**choice))
    analyzer = make_analyzer(**choice, whole_picture=True)
    used, notes = analyze(analyzer)
    assert used == -1
    assert "without an identity" in notes[0]
    assert analyzer.select(PICTURE).mask.all() == ("box" not in choice)


def test_a_box_or_a_mask_chooses_the_face_and_is_its_mask() -> None:
    given, expected = torch.zeros(400, 600), torch.zeros(400, 600)
    given[120:200, 60:100], given[0, 0], expected[90:210, 40:160] = 0.8, 0.2, 1
    by_box = make_analyzer(SMALLER, LARGE, box=PixelBox(50, 100, 150, 200)), expected
    for analyzer, mask in (by_box, (make_analyzer(SMALLER, LARGE, mask=given), (given > 0.5).float())):
        assert analyze(analyzer) == (40, [])
        assert torch.equal(analyzer.select(PICTURE).mask, mask)
    with pytest.raises(FaceError, match="no face in the given place"):
        analyze(make_analyzer(SMALLER, LARGE, box=PixelBox(0, 0, 30, 30)))
    for mask in (torch.ones(600, 400), torch.zeros(400, 600), torch.ones(1, 400, 600)):
        with pytest.raises(FaceError, match="face mask cannot be used"):
            make_analyzer(LARGE, mask=mask).select(PICTURE)


def test_i15_a_box_that_leaves_the_picture_is_cut() -> None:
    """At the left and top, at the right and bottom, and all around."""
    boxes = PixelBox(-60, -50, 150, 180), PixelBox(480, 300, 660, 480), PixelBox(-100, -100, 900, 900)
    for box, corner in zip(boxes, ((0, 0), (399, 599), (200, 300)), strict=True):
        mask = make_analyzer(face(*box)).select(PICTURE).mask
        assert mask.shape == (400, 600)
        assert mask[corner] == 1
        inside = box.intersect(PixelBox(0, 0, 600, 400))
        assert inside.area <= float(mask.sum()) <= min(400 * 600, 1.5 * box.area)
