"""Products in eight bits are what they say: rounded by rows, multiplied exactly, scaled, and rounded once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hallo3.quantization import linear as products
from hallo3.quantization.linear import EightBitLinear, ProductLinear
from hallo3.quantization.precision import PRECISIONS, QuantizationScheme
from hallo3.quantization.quantize import FP8, INT8, by_rows

PRODUCTS = ("fp8-products", "int8")
SIZES = ((40, 64, 48), (5, 12, 20), (1, 8, 33), (16, 30, 5))
BF16 = torch.bfloat16
HALF_STEP = {"int8": 0.5 / 127, "fp8-products": 2.0**-4}
"""Of a row's largest number, and of each number: what rounding to eight bits changes at most."""


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def layer(name: str, inputs: int, outputs: int, weight: Tensor | None = None) -> EightBitLinear:
    """A layer that is held as a precision holds it."""
    holding = PRECISIONS[name].held_as
    assert isinstance(holding, QuantizationScheme)
    made = holding.layer(inputs, outputs, device="meta")
    numbers, scales = holding.made(draw(outputs, inputs, seed=1) if weight is None else weight.clone())
    made.weight, made.weight_scale = nn.Parameter(numbers, requires_grad=False), scales
    made.bias = nn.Parameter(draw(outputs, seed=2).to(BF16), requires_grad=False)
    return made


def multiplied_back(name: str, linear: EightBitLinear, x: Tensor) -> Tensor:
    """What a product stands for, in float64."""
    numbers, scales = by_rows(x, INT8 if name == "int8" else FP8)
    weight, bias = linear.dense(x.double())
    assert bias is not None
    return F.linear(numbers.double() * scales.double(), weight, bias)


@pytest.fixture(params=["rows after", "rows by the device"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way of scaling rows."""
    monkeypatch.setattr(products, "scales_by_rows", lambda _: request.param == "rows by the device")


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_whole_numbers_are_multiplied_exactly(size: tuple[int, int, int]) -> None:
    rows, inputs, outputs = size
    linear, x = layer("int8", inputs, outputs), draw(rows, inputs).to(BF16)
    numbers, scales = by_rows(x, INT8)
    exact = numbers.long() @ linear.weight.long().t()
    assert isinstance(linear, ProductLinear)
    found = linear._product(*linear._fitted(numbers))[:rows, :outputs]
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), exact)
    assert torch.equal(linear(x), (exact.float() * scales * linear.weight_scale + linear.bias).to(BF16))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_a_layer_is_its_rounded_numbers_product(name: str, size: tuple[int, int, int]) -> None:
    rows, inputs, outputs = size
    linear, x = layer(name, inputs, outputs), draw(rows, inputs).to(BF16)
    exact = multiplied_back(name, linear, x)
    most = exact.abs().max() * 2e-6  # float32's sums
    assert bool(((linear(x).double() - exact).abs() <= exact.abs() * 2.0**-8 + most).all())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", PRODUCTS)
@torch.inference_mode()
def test_a_row_does_not_see_the_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = layer(name, 64, 48), draw(2, 30, 64).to(BF16)
    x[0, :10] *= 1000
    whole = linear(x)
    alone = torch.stack([linear(row[None])[0] for row in x.flatten(0, 1)]).view_as(whole)
    monkeypatch.setattr(products, "AT_ONCE", 7 * 64)
    pieces = linear(x)
    if name == "int8":
        assert torch.equal(whole, alone)
        assert torch.equal(whole, pieces)
    near = {
        "rtol": 2.0**-7,
        "atol": 1e-4 * float(whole[1].abs().max()),
    }
    for other in (alone, pieces):
        assert torch.allclose(whole[1].float(), other[1].float(), **near)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", PRODUCTS)
@torch.inference_mode()
def test_nothing_is_nothing_and_what_is_no_number_shows(name: str) -> None:
    weight = draw(48, 64, seed=1)
    weight[3] = 0
    linear, x = layer(name, 64, 48, weight), draw(40, 64).to(BF16)
    x[0], x[1, 5], x[2, 6], x[3, 7] = 0, torch.nan, torch.inf, -torch.inf
    found = linear(x)
    assert torch.equal(found[0], linear.bias)
    assert torch.equal(found[4:, 3], linear.bias[3].expand(36))
    assert not bool(found[1:4].isfinite().any())
    assert bool(found[4:].isfinite().all())
    assert linear(x[:0]).shape == (0, 48)


class Strict:
    """torch's products with what CUDA asks of shapes and scales."""

    def _int_mm(self, a: Tensor, b: Tensor) -> Tensor:
        assert len(a) > 16
        self.check(a, b, 8)
        return torch._int_mm(a, b)

    def _scaled_mm(self, a: Tensor, b: Tensor, **options: Any) -> Tensor:
        self.check(a, b, 16)
        one, rows = ((), ()), ((len(a), 1), (1, b.shape[1]))
        assert (options["scale_a"].shape, options["scale_b"].shape) in (one, rows)
        assert options["scale_a"].is_contiguous()
        assert options["scale_b"].is_contiguous()
        if options["scale_a"].ndim:
            assert options["out_dtype"] == BF16
            assert options["bias"] is None or options["bias"].dtype == BF16
        return torch._scaled_mm(a, b, **options)

    def check(self, a: Tensor, b: Tensor, step: int) -> None:
        assert a.is_contiguous()
        assert b.t().is_contiguous()
        assert a.shape[1] % step == b.shape[0] % step == b.shape[1] % step == 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_every_shape_is_made_fit_for_a_gpu(
    name: str, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, inputs, outputs = size
    linear, x = layer(name, inputs, outputs), draw(rows, inputs).to(BF16)
    wanted = linear(x)
    monkeypatch.setattr(products, "_MATRICES", Strict())
    assert torch.equal(linear(x), wanted)
    linear.bias = None  # type: ignore[assignment]
    assert linear(x).shape == (rows, outputs)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["fp8", *PRODUCTS])
def test_shapes_are_known_without_numbers(name: str) -> None:
    holding = PRECISIONS[name].held_as
    assert isinstance(holding, QuantizationScheme)
    linear = holding.layer(64, 48, device="meta", dtype=BF16)
    for number in (holding.number, BF16):
        linear.weight = nn.Parameter(torch.empty(48, 64, device="meta", dtype=number), requires_grad=False)
        made = linear(torch.empty(2, 20, 64, device="meta", dtype=BF16))
        assert (made.shape, made.dtype) == ((2, 20, 48), BF16)


@pytest.mark.parametrize("name", ["fp8", *PRODUCTS])
@torch.inference_mode()
def test_a_layer_tells_the_weight_it_has_in_effect(name: str) -> None:
    wanted = draw(48, 64, seed=1)
    linear = layer(name, 64, 48, wanted)
    weight, bias = linear.dense(torch.empty(0))
    assert bias is not None
    assert weight.dtype == bias.dtype == torch.float32
    exact = name == "int8"
    step = HALF_STEP["int8"] * wanted.abs().amax(1, keepdim=True) if exact else HALF_STEP["fp8-products"]
    assert bool(((weight - wanted).abs() <= (step if exact else step * wanted.abs() + 1e-4)).all())
    assert linear.dense(torch.empty(0, dtype=BF16))[0].dtype == BF16
    linear.weight = nn.Parameter(wanted.to(BF16), requires_grad=False)
    assert torch.equal(linear.dense(torch.empty(0))[0], wanted.to(BF16).float())
    x = draw(3, 64).to(BF16)
    assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))


def outliers(rows: int, columns: int) -> Tensor:
    made = draw(rows, columns, seed=3)
    made[:, :4] *= torch.linspace(30, 100, 4)
    return made


@torch.inference_mode()
def test_errors_are_those_that_were_measured() -> None:
    """docs/measurements/products.json, with a fifth to spare; and what int8 is not for."""
    width = 1024
    weight = draw(width, width, seed=1) / width**0.5
    errors: dict[tuple[str, str], float] = {}
    for kind, x in (("gaussian", draw(256, width, seed=3)), ("outliers", outliers(256, width))):
        x = x.to(BF16)
        for name in ("fp8", *PRODUCTS):
            linear = layer(name, width, width, weight)
            linear.bias = None  # type: ignore[assignment]
            exact = F.linear(x.double(), weight.double())
            off = (linear(x).double() - exact).norm(dim=-1) / exact.norm(dim=-1)
            errors[kind, name] = float(off.median())
    assert 0.021 < errors["gaussian", "fp8"] < 0.032
    assert 0.030 < errors["gaussian", "fp8-products"] < 0.045
    assert 0.009 < errors["gaussian", "int8"] < 0.0145
    assert errors["outliers", "fp8-products"] < 0.045
    assert 0.045 < errors["outliers", "int8"] < 0.1
