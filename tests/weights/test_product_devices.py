"""Which devices multiply in eight bits, and how; said of every one before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from hallo3.errors import InputError
from hallo3.weights import products
from hallo3.weights.precision import PRECISIONS, check_device, products_of

PRODUCTS = ("fp8-products", "int8")


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
            assert raised.value.do
        else:
            check_device(precision, torch.device("cuda"))


@pytest.mark.parametrize("name", PRECISIONS)
def test_other_devices_only_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(PRECISIONS[name], torch.device("cpu"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
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
    assert not products.scales_by_rows(torch.device("cpu"))
