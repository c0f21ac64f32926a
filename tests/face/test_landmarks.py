"""The face mask beyond the golden: odd boxes, and landmarks that are none."""

from __future__ import annotations

import pytest
import torch

from hallo3.errors import FaceError
from hallo3.face.landmarks import SILHOUETTE, box_mask, expand, silhouette_box
from hallo3.geometry import PixelBox


def landmarks(left: float, top: float, right: float, bottom: float) -> torch.Tensor:
    """The outline's first points at the corners, the others in the middle, all others far away."""
    points = torch.full((478, 2), 1e6, dtype=torch.float64)
    points[list(SILHOUETTE)] = torch.tensor([(left + right) / 2, (top + bottom) / 2]).double()
    points[SILHOUETTE[0]] = torch.tensor([left, top]).double()
    points[SILHOUETTE[1]] = torch.tensor([right, bottom]).double()
    return points


def extent(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is set, which must be a filled box."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    edges = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    assert mask.sum() == (edges[2] - edges[0]) * (edges[3] - edges[1])
    return edges


def test_only_the_outline_counts_and_halves_are_rounded_to_even() -> None:
    assert silhouette_box(landmarks(10.5, 11.5, 30.5, 33.4)) == (10, 12, 30, 33)


def test_a_mask_is_a_fifth_larger_than_the_face() -> None:
    assert extent(box_mask(silhouette_box(landmarks(100, 100, 200, 150)), 300, 400)) == (90, 95, 210, 155)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((5, 100, 105, 200), (0, 90, 120, 210)),
        ((300, 100, 398, 200), (284, 90, 400, 210)),
        ((100, 195, 200, 299), (90, 176, 210, 300)),
        ((10, 10, 390, 290), (0, 0, 400, 300)),
    ],
    ids=["left", "right", "below", "wider than the picture"],
)
def test_a_box_that_leaves_the_picture_is_shifted_back(
    box: tuple[int, int, int, int], expected: tuple[int, int, int, int]
) -> None:
    assert extent(box_mask(PixelBox(*box), 300, 400)) == expected


def test_where_the_original_s_mask_would_be_empty_it_is_whole() -> None:
    """A negative edge counted from the other end there."""
    assert expand(PixelBox(10, 10, 390, 290), 300, 400).left < 0
    assert box_mask(PixelBox(10, 10, 390, 290), 300, 400).all()


def test_the_smallest_box_has_a_pixel() -> None:
    assert box_mask(PixelBox(50.2, 50.2, 50.4, 50.4), 100, 100).sum() >= 1


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_landmarks_that_are_not_finite_are_refused(number: float) -> None:
    points = landmarks(10, 10, 30, 30)
    points[SILHOUETTE[5], 1] = number
    with pytest.raises(FaceError, match="not finite"):
        silhouette_box(points)


@pytest.mark.parametrize("shape", [(5, 2), (478, 3), (478,), (1, 478, 2), (0, 2)])
def test_landmarks_of_another_layout_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FaceError, match=r"\[478, 2\]"):
        silhouette_box(torch.zeros(shape))


@pytest.mark.parametrize(
    "box",
    [(float("nan"), 1, 9, 9), (0, 0, float("inf"), 9), (9, 9, 1, 1), (200, 0, 300, 9), (-9, -9, 0, 0)],
)
def test_boxes_that_are_none_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(FaceError, match="inside 100 x 100 px"):
        box_mask(PixelBox(*box), 100, 100)
