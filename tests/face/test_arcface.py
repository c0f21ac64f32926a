import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hallo3.errors import FaceError
from hallo3.face.arcface import RECOGNIZER_FILENAME, TEMPLATE, Recognizer, align, fit_similarity
from support import onnx_builder


@pytest.mark.parametrize("degrees", [0, 20, -75, 180])
@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_a_known_similarity_is_inverted_exactly(degrees: float, scale: float) -> None:
    angle = math.radians(degrees)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    template = np.array(TEMPLATE)
    matrix = fit_similarity(template @ turn.T + [40, -7], template)
    np.testing.assert_allclose(matrix[:, :2], np.linalg.inv(turn), atol=1e-9)
    np.testing.assert_allclose(matrix[:, 2], -np.linalg.inv(turn) @ [40, -7], atol=1e-8)
    mirrored = fit_similarity(template @ turn.T * [-1, 1], template)
    assert np.linalg.det(mirrored[:, :2]) > 0, "it is not mirrored back"


@pytest.mark.parametrize(("x", "y"), [(0, 0), (30, 12)])
def test_an_aligned_face_is_cropped_pixel_by_pixel_and_padded_with_black(x: int, y: int) -> None:
    levels = torch.randint(0, 256, (3, 200, 180), generator=torch.Generator().manual_seed(1))
    crop, expected = align(levels / 255, torch.tensor(TEMPLATE) + torch.tensor([x, y])), levels[:, y:, x:]
    assert (crop - expected[:, :112, :112]).abs().max() <= 1
    assert (crop != expected[:, :112, :112]).float().mean() < 0.01
    crop = align(torch.ones(3, 100, 100), torch.tensor(TEMPLATE) - 50)  # outside, it is black
    assert (crop[:, :49, :49] == 0).all()
    assert (crop[:, 51:, 51:] == 255).all()


@pytest.mark.parametrize("number", [0.0, float("nan"), float("inf")])
def test_landmarks_that_coincide_or_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(FaceError, match="landmarks cannot be used"):
        align(torch.rand(3, 100, 100), torch.full((5, 2), number))


@pytest.mark.any_message
def test_the_embedding_is_not_normalised_and_red_comes_first(tmp_path: Path) -> None:
    """Means of 8 x 8 pixels of red, then green, then blue."""
    pytest.importorskip("onnxruntime", reason="the optional extra 'faces' is not installed")
    path, levels = tmp_path / RECOGNIZER_FILENAME, torch.tensor([255, 102, 51])
    path.write_bytes(onnx_builder.recognizer())
    picture = (levels / 255)[:, None, None].expand(3, 112, 112)
    embedding = Recognizer(path, unverified=True)(picture, torch.tensor(TEMPLATE))
    expected = ((levels - 127.5) / 127.5).repeat_interleave(196)[None, :512]
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)
