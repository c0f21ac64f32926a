import pytest
import torch

from hallo3.errors import FaceError
from hallo3.face.landmarks import SILHOUETTE, box_mask, expand, silhouette_box
from hallo3.geometry import PixelBox
from hallo3.media.framing import mask_extent
from support.fake_mediapipe import make_landmarks


def test_only_the_outline_counts_and_halves_are_rounded_to_even() -> None:
    points = make_landmarks(10.5, 11.5, 30.5, 33.4)
    points[[n for n in range(478) if n not in SILHOUETTE]] = 1e6
    assert silhouette_box(points) == (10, 12, 30, 33)


MASKS = {
    "a fifth larger": ((100, 100, 200, 150), (90, 95, 210, 155)),
    "shifted from the left": ((5, 100, 105, 200), (0, 90, 120, 210)),
    "shifted from the right": ((300, 100, 398, 200), (284, 90, 400, 210)),
    "shifted from below": ((100, 195, 200, 299), (90, 176, 210, 300)),
    "wider than the picture, where the original's is empty": ((10, 10, 390, 290), (0, 0, 400, 300)),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_are_filled_boxes(case: str) -> None:
    box, expected = (PixelBox(*edges) for edges in MASKS[case])
    mask = box_mask(box, 300, 400)
    assert mask_extent(mask > 0) == expected
    assert mask.sum() == expected.area
    assert expand(PixelBox(10, 10, 390, 290), 300, 400).left < 0, "which the mask cuts"
    assert box_mask(PixelBox(50.2, 50.2, 50.4, 50.4), 100, 100).sum() >= 1


def test_landmarks_and_boxes_that_cannot_be_are_refused() -> None:
    points = make_landmarks(10, 10, 30, 30)
    for points[SILHOUETTE[5], 1] in (float("nan"), float("inf")):
        with pytest.raises(FaceError, match="not finite"):
            silhouette_box(points)
    for shape in ((5, 2), (478, 3), (478,), (1, 478, 2), (0, 2)):
        with pytest.raises(FaceError, match=r"\[478, 2\]"):
            silhouette_box(torch.zeros(shape))
    edges = (float("nan"), 1, 9, 9), (0, 0, float("inf"), 9), (9, 9, 1, 1), (200, 0, 300, 9), (-9, -9, 0, 0)
    for box in edges:
        with pytest.raises(FaceError, match="inside 100 x 100 px"):
            box_mask(PixelBox(*box), 100, 100)
