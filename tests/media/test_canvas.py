import pytest
import torch
from torch.nn import functional as F

from hallo3.geometry import VideoShape
from hallo3.media.canvas import enlarge, fit


@pytest.mark.parametrize("canvas", [(64, 96), (96, 64), (32, 32)])
@pytest.mark.parametrize("picture", [(80, 80), (64, 200), (200, 64), (64, 96), (4096, 64)])
def test_any_picture_fits_any_canvas(canvas: tuple[int, int], picture: tuple[int, int]) -> None:
    fitted = fit(torch.full((3, *picture), 0.75), VideoShape.checked(17, *canvas))
    assert fitted.pixels.shape == (1, 3, 1, *canvas)
    visible = fitted.uncrop(fitted.pixels)
    assert torch.allclose(visible, torch.tensor(0.5), atol=1e-5)
    assert visible.shape[-2:] == (fitted.height, fitted.width)
    is_square = picture[0] == picture[1]
    assert (fitted.height == fitted.width == min(canvas)) if is_square else visible.shape[-2:] == canvas
    assert is_square or bool((fitted.pixels > 0).all())


@pytest.mark.parametrize("size", [(300, 300), (700, 450), (450, 700), (130, 64), (257, 1000)])
def test_a_mask_in_bands_equals_a_masked_picture(size: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    picture = torch.rand(*size, 3, generator=draw).permute(2, 0, 1)
    mask = (torch.rand(size, generator=draw) > 0.5).float()
    for shape in (VideoShape(17, 64, 96), VideoShape(17, 240, 160)):
        assert torch.equal(fit(picture, shape, mask=mask).pixels, fit(picture * mask, shape).pixels)


@pytest.mark.parametrize("times", [1, 2, 16])
def test_enlarged_frames_are_the_same_picture(times: int) -> None:
    picture = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).round()
    picture[0] = picture[0] * 0.5 + 0.2
    large = enlarge(picture, times)
    assert large.shape == (2, 3, 6 * times, 8 * times)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1
    assert float((F.avg_pool2d(large, times) - picture).abs().max()) < 0.35
    assert torch.allclose(enlarge(torch.full((1, 3, 4, 4), 0.3), times), torch.tensor(0.3))
