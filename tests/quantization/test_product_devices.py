"""Which devices multiply in eight bits, and how; said of every one before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.errors import InputError
from hallo3.loading import load_models
from hallo3.quantization import linear as products
from hallo3.quantization import precision as precisions
from hallo3.quantization.linear import Fp8Linear, RowsAfterLinear
from hallo3.quantization.precision import PRECISIONS, check_device, fit_to_device, holds_fp8, products_of
from hallo3.quantization.quantize import FP8
from support.messages import expect_message

PRODUCTS = ("fp8-products", "int8")
E4M3 = ("fp8", "fp8-products")
CPU, MPS = torch.device("cpu"), torch.device("mps")


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ((7, 5), []),
        ((8, 0), ["int8"]),
        ((8, 6), ["int8"]),
        ((8, 9), list(PRODUCTS)),
        ((12, 0), list(PRODUCTS)),
    ],
)
def test_a_gpu_that_cannot_is_refused(
    capability: tuple[int, int], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert products_of(capability) == list(names)
    for name, precision in PRECISIONS.items():
        if name in PRODUCTS and name not in names:
            with pytest.raises(InputError, match=r"compute capability {}\.{}".format(*capability)) as raised:
                check_device(precision, torch.device("cuda"))
            assert raised.value.fix
        else:
            check_device(precision, torch.device("cuda"))


@pytest.mark.parametrize("name", PRECISIONS)
def test_other_devices_only_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(PRECISIONS[name], CPU)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(precisions, "holds_fp8", lambda _: True)
    for device in ("mps", "cuda"):
        if name in PRODUCTS:
            with pytest.raises(InputError, match="cannot multiply"):
                check_device(PRECISIONS[name], torch.device(device))
        else:
            check_device(PRECISIONS[name], torch.device(device))


@pytest.mark.parametrize(
    ("capability", "system", "by_device"),
    [((8, 9), "linux", True), ((9, 0), "linux", True), ((9, 0), "win32", False), ((12, 0), "linux", False)],
)
def test_rows_are_scaled_by_devices_that_do_it(
    capability: tuple[int, int], system: str, by_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(products.sys, "platform", system)
    assert products.scales_by_rows(torch.device("cuda")) == by_device
    assert not products.scales_by_rows(CPU)


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_device_without_e4m3_holds_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no e4m3 on MPS in many versions."""
    monkeypatch.setattr(precisions, "holds_fp8", lambda device: device.type != "mps")
    check_device(PRECISIONS[name], CPU)
    if name in ("fp32", "bf16", "fp16"):
        check_device(PRECISIONS[name], MPS)
        return
    with pytest.raises(InputError, match="hold these" if name in E4M3 else "cannot multiply") as raised:
        check_device(PRECISIONS[name], MPS)
    assert raised.value.fix == "use bf16"


class Device:
    """Stands for a device that tensors are sent to; ``says`` is what torch raises or what comes back."""

    def __init__(self, says: Exception | float) -> None:
        self.says, self.sent = says, list[torch.dtype]()

    def to(self, tensor: Tensor, *_: object) -> Tensor:
        self.sent.append(tensor.dtype)
        if isinstance(self.says, Exception):
            raise self.says
        return torch.full((1,), self.says)


@pytest.mark.parametrize(
    ("says", "holds"),
    [
        (1.0, True),
        (0.0, False),
        (TypeError("Trying to convert Float8_e4m3fn to the MPS backend"), False),
        (RuntimeError("PyTorch is not linked with support for mps devices"), False),
    ],
)
def test_one_number_is_sent_to_see(
    says: Exception | float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, real = Device(says), torch.Tensor.to

    def to(self: Tensor, *args: Any, **more: Any) -> Tensor:
        return device.to(self) if args[:1] == (MPS,) else real(self, *args, **more)

    monkeypatch.setattr(torch.Tensor, "to", to)
    assert holds_fp8(CPU)
    assert holds_fp8(MPS) is holds
    assert device.sent == [FP8]


@pytest.mark.parametrize("probe", [holds_fp8, products.multiplies_by_rows])
def test_memory_that_runs_out_is_no_answer(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.Tensor.to

    def full(self: Tensor, *args: Any, **more: Any) -> Tensor:
        if args == (CPU,) and self.dtype == FP8:
            raise RuntimeError("MPS backend out of memory")
        return real(self, *args, **more)

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        probe(CPU)


class Cannot:
    """torch's products on a device that scales by one number only; ``way`` is what it makes of a row's."""

    def __init__(self, way: str) -> None:
        self.way, self.calls = way, 0

    def _scaled_mm(self, a: Tensor, b: Tensor, *, scale_a: Tensor, scale_b: Tensor, **more: Any) -> Tensor:
        self.calls += 1
        if scale_a.ndim == 0:
            return torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, **more)
        if self.way == "refuses":
            raise RuntimeError("rowwise scaling is only supported for sm_90")
        if self.way == "has another signature":
            raise TypeError("unexpected keyword argument")
        made = torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, **more)
        return made * float("nan") if self.way == "gives none" else made.flip(0)


WAYS = ("refuses", "has another signature", "gives none", "gives others")


@pytest.mark.parametrize("way", WAYS)
def test_a_small_product_shows_whether_rows_are_scaled(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert products.multiplies_by_rows(CPU)
    monkeypatch.setattr(products, "_MATRICES", Cannot(way))
    assert not products.multiplies_by_rows(CPU)


@pytest.mark.parametrize("way", ["", *WAYS])
@torch.inference_mode()
def test_rows_are_scaled_afterwards_where_they_must(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that stands for a GPU which should scale by rows."""
    monkeypatch.setattr(precisions, "scales_by_rows", lambda _: True)
    monkeypatch.setattr(products, "scales_by_rows", lambda _: True)
    wanted = PRECISIONS["fp8-products"]
    if not way:
        assert fit_to_device(wanted, CPU) is wanted
        return
    monkeypatch.setattr(products, "_MATRICES", Cannot(way))
    with expect_message("fp8-products: .*scaled after the product"):
        found = fit_to_device(wanted, CPU)
    assert (found.name, found.approximate, found.compute) == (wanted.name, True, wanted.compute)
    linear = found.layers().linear(32, 48)
    assert isinstance(linear, RowsAfterLinear)
    assert found.held_as is not None
    numbers, scales = found.held_as.made(torch.randn(48, 32, generator=torch.Generator().manual_seed(1)))
    linear.weight, linear.weight_scale = torch.nn.Parameter(numbers, requires_grad=False), scales
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    weight, bias = linear.dense(torch.empty(0))
    exact = torch.nn.functional.linear(x.float(), weight, bias)
    assert float((linear(x).float() - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("name", PRECISIONS)
def test_other_precisions_stay_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "multiplies_by_rows", lambda _: False)
    assert fit_to_device(PRECISIONS[name], CPU) is PRECISIONS[name]  # the CPU is not thought to scale by rows
    monkeypatch.setattr(precisions, "scales_by_rows", lambda _: True)
    if name != "fp8-products":
        assert fit_to_device(PRECISIONS[name], CPU) is PRECISIONS[name]


def test_models_are_loaded_with_what_fits(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "scales_by_rows", lambda _: True)
    monkeypatch.setattr(precisions, "multiplies_by_rows", lambda _: False)
    with expect_message("scaled after the product"):
        models = load_models(nano_folder, CPU, "fp8-products")
    with models.transformer as network:
        kinds = {type(module) for module in network.modules() if isinstance(module, Fp8Linear)}
    assert kinds == {RowsAfterLinear}
