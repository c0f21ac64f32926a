"""A fused kernel equals the eager one: up to rounding in float32, and nearer to float64 in 16 bits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hallo3.model.kernels.eager import PLAIN, Kernels
from hallo3.model.kernels.fused import FUSED
from support.transformer_inputs import draw

WIDTH, HEADS, VIDEO, TEXT, TAIL = 96, 6, 50, 7, 9
HEAD = WIDTH // HEADS


def layer(kind: type[nn.Module], *sizes: int, **options: float) -> nn.Module:
    module = kind(*sizes, **options)
    for name, parameter in module.named_parameters():
        nn.init.constant_(parameter, 0)
        parameter.data += draw(f"{kind.__name__} {name}", *parameter.shape) * 0.3 + (name == "weight") * 0.2
    return module.requires_grad_(False)


def adaln_modulate(kernels: Kernels, dtype: torch.dtype, rows: int = 1) -> Tensor:
    norm = layer(nn.LayerNorm, WIDTH, eps=1e-5).to(dtype)
    video, text = draw("video", 2, VIDEO, WIDTH).to(dtype), draw("text", 2, TEXT, WIDTH).to(dtype)
    return kernels.adaln_modulate(norm, video, text, draw("m", rows, 6, WIDTH).to(dtype))


def qk_norm_rope(kernels: Kernels, dtype: torch.dtype, tail: bool = True) -> Tensor:
    norm = layer(nn.LayerNorm, HEAD, eps=1e-6).to(dtype)
    angles = draw("angles", VIDEO, HEAD // 2).repeat_interleave(2, dim=1)
    behind = draw("tail", 1, HEADS, TAIL, HEAD).to(dtype) if tail else None
    x = draw("x", 2, VIDEO, WIDTH).to(dtype)
    return kernels.qk_norm_rope(norm, x, HEADS, angles.cos().to(dtype), angles.sin().to(dtype), behind)


def linear_concat(kernels: Kernels, dtype: torch.dtype) -> Tensor:
    linear, x = layer(nn.Linear, WIDTH, WIDTH).to(dtype), draw("x", 2, VIDEO, WIDTH).to(dtype)
    return kernels.linear_concat(linear, x, draw("tail", 1, TAIL, WIDTH).to(dtype))


def gated_residual(kernels: Kernels, dtype: torch.dtype) -> Tensor:
    x, update = (draw(name, 2, VIDEO, WIDTH).to(dtype) for name in ("x", "update"))
    return kernels.gated_residual(x, update, draw("gate", 1, 1, WIDTH).to(dtype))


def gated_residual_norm(kernels: Kernels, dtype: torch.dtype) -> Tensor:
    norm = layer(nn.LayerNorm, WIDTH, eps=1e-5).to(dtype)
    x, update = (draw(name, 2, VIDEO, WIDTH).to(dtype) for name in ("x", "update"))
    return torch.stack(kernels.gated_residual_norm(norm, x, update, draw("gate", 1, 1, WIDTH).to(dtype)))


def linear_gelu(kernels: Kernels, dtype: torch.dtype) -> Tensor:
    linear = layer(nn.Linear, WIDTH, 4 * WIDTH).to(dtype)
    return kernels.linear_gelu(linear, draw("x", 2, VIDEO, WIDTH).to(dtype))


CASES: dict[str, Callable[[Kernels, torch.dtype], Tensor]] = {
    "adaln_modulate": adaln_modulate,
    "adaln_modulate, a row a sample": lambda kernels, dtype: adaln_modulate(kernels, dtype, 2),
    "qk_norm_rope": qk_norm_rope,
    "qk_norm_rope, nothing behind": lambda kernels, dtype: qk_norm_rope(kernels, dtype, False),
    "linear_concat": linear_concat,
    "gated_residual": gated_residual,
    "gated_residual_norm": gated_residual_norm,
    "linear_gelu": linear_gelu,
}


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_fused_kernel_equals_its_plain_form(name: str) -> None:
    plain, fused = (CASES[name](kernels, torch.float32) for kernels in (PLAIN, FUSED))
    assert fused.shape == plain.shape
    torch.testing.assert_close(fused, plain, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_in_sixteen_bits_it_is_at_least_as_near_to_the_truth(name: str, dtype: torch.dtype) -> None:
    """One rounding at the end instead of one an operation. The truth has the same, rounded inputs."""
    exact = CASES[name](PLAIN, torch.float64)
    plain, fused = ((CASES[name](kernels, dtype).double() - exact).norm() for kernels in (PLAIN, FUSED))
    assert fused <= 1.02 * plain


@torch.inference_mode()
def test_on_meta_it_has_the_shape_of_its_plain_form() -> None:
    norm, linear = nn.LayerNorm(HEAD, device="meta"), nn.Linear(WIDTH, 4 * WIDTH, device="meta")
    x, table = torch.empty(2, VIDEO, WIDTH, device="meta"), torch.empty(VIDEO, HEAD, device="meta")
    tail = torch.empty(1, HEADS, TAIL, HEAD, device="meta")
    for name, found in {
        "qk_norm_rope": FUSED.qk_norm_rope(norm, x, HEADS, table, table, tail),
        "qk_norm_rope, nothing behind": FUSED.qk_norm_rope(norm, x, HEADS, table, table, None),
        "linear_gelu": FUSED.linear_gelu(linear, x),
    }.items():
        assert found.shape == CASES[name](PLAIN, torch.float32).shape, name


@pytest.mark.parametrize("kernels", [PLAIN, FUSED], ids=lambda kernels: kernels.name)
def test_gradients_are_kept(kernels: Kernels) -> None:
    linear, x = nn.Linear(WIDTH, WIDTH), draw("x", 1, VIDEO, WIDTH).requires_grad_()
    kernels.gated_residual(kernels.linear_gelu(linear, x), x, draw("gate", 1, 1, WIDTH)).sum().backward()
    assert linear.weight.grad is not None
    assert x.grad is not None
