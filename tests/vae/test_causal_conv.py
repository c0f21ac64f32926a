from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hallo3.geometry import LatentShape
from hallo3.vae import causal_conv
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


@pytest.mark.parametrize(
    ("version", "cudnn", "expected"),
    [
        ("2.8.0", 91002, False),
        ("2.9.0+cu128", 91002, True),
        ("2.9.1", 91400, True),
        ("2.9.1", 91500, False),
        ("2.9.1", None, False),
        ("2.10.0", 91002, False),
        ("2.13.0", 91002, False),
    ],
)
def test_cudnn_is_called_where_torch_avoids_it(
    version: str, cudnn: int | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 16 bits on CUDA only; what cuDNN gives is torch's result."""
    x, weight, bias = torch.randn(1, 4, 5, 6, 7), torch.randn(8, 4, 3, 3, 3), torch.randn(8)
    called: list[Any] = []

    def cudnn_convolution(*args: Any, **options: Any) -> torch.Tensor:
        called.append(options)
        signal, kernel, padding, stride, dilation, groups = args
        return torch.conv3d(signal.float(), kernel, None, stride, padding, dilation, groups)

    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    monkeypatch.setattr(torch, "cudnn_convolution", cudnn_convolution, raising=False)
    assert causal_conv.avoids_cudnn() is expected
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        signal: Any = SimpleNamespace(
            is_cuda=True, dtype=dtype, numel=lambda: 0, float=lambda: x, device=SimpleNamespace(type="cuda")
        )
        called.clear()
        if expected and dtype != torch.float32:
            out = causal_conv.convolve(signal, weight, bias, (0, 1, 1))
            assert torch.allclose(out, torch.conv3d(x, weight, bias, padding=(0, 1, 1)), atol=1e-5)
            assert called == [{"benchmark": False, "deterministic": False, "allow_tf32": True}]
        else:
            with pytest.raises(TypeError, match="conv3d"):  # torch's own, which knows no stand-in
                causal_conv.convolve(signal, weight, bias, (0, 1, 1))
            assert not called
