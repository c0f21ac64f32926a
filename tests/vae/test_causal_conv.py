import pytest
import torch
from torch.nn import functional as F

from hallo3.geometry import LatentShape
from hallo3.vae.causal_conv import MAX_CONV_ELEMENTS, DecodePlan, OneDNNConvolutions, cuts, min_strips


@pytest.mark.parametrize(("rows", "strips", "scale"), [(60, 1, 8), (60, 8, 8), (60, 16, 2), (5, 8, 4)])
def test_strips_are_whole_latent_rows_and_as_equal_as_can_be(rows: int, strips: int, scale: int) -> None:
    edges = cuts(rows, strips, scale)
    assert len(edges) == min(rows, strips)
    assert [0, *(last for _, last in edges)] == [*(first for first, _ in edges), rows * scale]
    heights = {(last - first) / scale for first, last in edges}
    assert heights <= {rows // min(rows, strips), -(-rows // min(rows, strips))}


def test_no_convolution_is_given_more_than_it_can_count() -> None:
    assert min_strips(256, LatentShape(3, 60, 90)) == 1
    larger = LatentShape(3, 96, 170)
    elements = 256 * (2 + 9) * larger.video.height * larger.video.width
    assert min_strips(256, larger) == -(-elements // MAX_CONV_ELEMENTS) == 3


def test_impossible_plans_are_refused() -> None:
    for strips, caches in ((0, "device"), (-1, "host"), (1, "disk")):
        with pytest.raises(ValueError, match=rf"{strips} strips with caches on '{caches}'"):
            DecodePlan(strips, caches)


def test_onednn_convolves_as_torch_does_and_leaves_gradients_to_it() -> None:
    signal, weight, bias = torch.randn(1, 8, 6, 20, 20), torch.randn(4, 8, 3, 3, 3), torch.randn(4)
    for padding in (0, 1):
        plain = F.conv3d(signal, weight, bias, padding=padding, stride=(1, 2, 2))
        with torch.no_grad(), OneDNNConvolutions():
            fast = F.conv3d(signal, weight, bias, padding=padding, stride=(1, 2, 2))
        assert torch.allclose(plain, fast, atol=1e-4)
    with OneDNNConvolutions():
        F.conv3d(signal, weight.requires_grad_()).sum().backward()
    assert weight.grad is not None
