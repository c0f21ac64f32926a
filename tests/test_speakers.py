"""Masks of speakers from the boxes of their faces."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3.geometry import LatentShape, PixelBox
from hallo3.speakers import make_speaker_masks

GRID = LatentShape(3, 12, 18)  # 6 x 9 tokens of 16 pixels
places = st.integers(0, 140)


@st.composite
def faces(draw: st.DrawFn) -> list[PixelBox]:
    corners = draw(st.lists(st.tuples(places, places, st.integers(4, 80)), min_size=1, max_size=4))
    return [PixelBox(left, top, left + size, top + size) for left, top, size in corners]


@settings(deadline=None)
@given(faces())
def test_masks_add_up_to_one_everywhere(boxes: list[PixelBox]) -> None:
    masks = make_speaker_masks(boxes, GRID)
    assert masks.shape == (len(boxes), 1, GRID.rows, GRID.columns)
    torch.testing.assert_close(masks.sum(dim=0), torch.ones(1, GRID.rows, GRID.columns))
    assert bool((masks >= 0).all())


@settings(deadline=None)
@given(faces())
def test_the_order_of_faces_is_that_of_masks(boxes: list[PixelBox]) -> None:
    turned = list(reversed(boxes))
    torch.testing.assert_close(make_speaker_masks(turned, GRID), make_speaker_masks(boxes, GRID).flip(0))


def test_one_face_has_a_mask_of_ones() -> None:
    assert torch.equal(make_speaker_masks([PixelBox(3, 4, 50, 60)], GRID), torch.ones(1, 1, 6, 9))


def test_two_people_side_by_side_share_the_picture() -> None:
    """Alike, mirrored, and with a border of a token."""
    left, right = PixelBox(24, 24, 48, 56), PixelBox(96, 24, 120, 56)
    masks = make_speaker_masks([left, right], GRID)[:, 0]
    torch.testing.assert_close(masks[0], masks[1].flip(1))
    assert float(masks[0, :, :4].min()) > 0.95
    torch.testing.assert_close(masks[0, :, 4], torch.full((6,), 0.5))


def test_a_mouth_belongs_to_its_face_where_people_overlap() -> None:
    """One behind the other, whose shoulders would cover it."""
    behind, before = PixelBox(40, 0, 72, 32), PixelBox(64, 40, 96, 72)
    masks = make_speaker_masks([behind, before], GRID)[:, 0]
    for speaker, face in enumerate((behind, before)):
        x, y = (face.left + face.right) / 2, face.bottom - 8
        assert float(masks[speaker, int(y // 16), int(x // 16)]) > 0.6
