"""Attention backends: exact ones equal plain attention; what cannot run is refused with the reason."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor
from torch.nn import functional as F

from conftest import speech_of
from hallo3 import attention_backend as backends
from hallo3.attention_backend import AUTO, BACKENDS, AttentionBackend, get_backend, why_unsupported
from hallo3.errors import InputError
from hallo3.loading import load_models
from hallo3.model.layers import sdpa
from hallo3.models import Models
from hallo3.noise import make_generator
from support.short_runs import video

CPU = torch.device("cpu")
TORCH = ("flash", "cudnn", "efficient", "math")
HERE = ("auto", "flash", "math")
"""What torch runs on a CPU."""
LIBRARIES = [name for name, backend in BACKENDS.items() if backend.module]
MEASURED = {torch.float32: 4e-7, torch.bfloat16: 2.3e-3, torch.float16: 3e-4, torch.float64: 8e-16}
"""Relative distances from float64 that were measured on a CPU, rounded up; tests allow twice as much."""


def tokens(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(make_generator(name).standard_normal(shape, dtype="float32")).to(dtype)


def sides(keys: int, head_dim: int = 64, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """q [2, 3, 190, D], k and v [2, 3, keys, D]; as the networks make them, not contiguous."""
    q, k, v = (
        tokens(name, 2, count, 3, head_dim, dtype=dtype).transpose(1, 2)
        for name, count in (("q", 190), ("k", keys), ("v", keys))
    )
    return q, k, v


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention in float64, as it is written."""
    q, k, v = q.double(), k.double(), v.double()
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def distance(result: Tensor, expected: Tensor) -> float:
    assert result.shape == expected.shape
    return float((result.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("keys", [260, 4])
@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("dtype", MEASURED, ids=str)
@pytest.mark.parametrize("name", HERE)
def test_exact_backends_are_plain_attention(name: str, dtype: torch.dtype, head_dim: int, keys: int) -> None:
    q, k, v = sides(keys, head_dim, dtype)
    result = BACKENDS[name](q, k, v)
    assert result.dtype == dtype
    assert distance(result, plain(q, k, v)) < 2 * MEASURED[dtype]


def test_what_runs_on_a_cpu_and_what_is_known() -> None:
    assert backends.list_runnable(CPU, torch.float32, 64) == HERE
    for name in HERE:
        assert get_backend(name, CPU, torch.float32, 64) is BACKENDS[name]
    with pytest.raises(InputError, match="Unknown attention") as raised:
        get_backend("sdpa", CPU, torch.float32, 64)
    assert raised.value.expected == " or ".join(BACKENDS)


@pytest.mark.parametrize(("name", "why"), [("cudnn", "No viable backend"), ("sage", "it runs on cuda only")])
def test_what_cannot_run_is_refused(name: str, why: str) -> None:
    with pytest.raises(InputError, match=r"This attention cannot run here\.") as raised:
        get_backend(name, CPU, torch.float32, 64)
    assert raised.value.found.startswith(f"{name} on cpu in float32: {why}")
    assert raised.value.expected == "auto, flash, math"
    assert "install" not in raised.value.fix


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a tensor is made: the device need not be there."""
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    monkeypatch.setattr(backends, "list_runnable", lambda *_: HERE)
    with pytest.raises(InputError) as raised:
        get_backend(name, torch.device("cuda"), torch.bfloat16, 64)
    assert f"{BACKENDS[name].package} is not installed" in raised.value.found
    assert raised.value.fix.startswith(f"install {BACKENDS[name].package}, or choose")


@pytest.mark.parametrize("name", [name for name in LIBRARIES if name != "flash-3"])
def test_a_library_that_diffusers_cannot_load_is_refused(name: str) -> None:
    """diffusers has None in the place of what it could not import."""
    result = replace(BACKENDS[name], devices=(), module="torch")
    assert why_unsupported(result, CPU, torch.bfloat16, 64).startswith("diffusers cannot use the torch")


def test_torchs_kernels_run_only_where_torch_obeys_the_choice() -> None:
    """On other devices torch would silently compute by another kernel."""
    for name in ("flash", "cudnn", "efficient"):
        result = why_unsupported(BACKENDS[name], torch.device("mps"), torch.float32, 64)
        assert result == "it runs on cuda and cpu only"
    assert BACKENDS["math"].devices == AUTO.devices == ()
    for name in ("cudnn", "efficient"):  # on the CPU they never fall back on another kernel
        with pytest.raises(RuntimeError, match="No viable backend"):
            BACKENDS[name](*sides(32))
    assert torch.backends.cuda.math_sdp_enabled(), "every kernel is allowed again"


def why(attend: Any) -> str:
    return why_unsupported(AttentionBackend(name="x", attend=attend), CPU, torch.float32, 64)


def test_wrong_results_are_no_attention() -> None:
    assert "away from plain attention" in why(lambda q, k, v: sdpa(q, k.flip(-2), v))
    assert "away from plain attention" in why(lambda q, k, v: sdpa(q, k, v) * float("nan"))
    turned = why(lambda q, k, v: sdpa(q, k, v).transpose(1, 2))
    assert "it gives the shape [1, 300, 2, 64], not" in turned


def test_the_reason_is_the_first_sentence_of_the_error_and_other_errors_are_raised() -> None:
    for kind in backends.UNSUPPORTED_ERRORS:
        error = kind("This GPU is too old. See there.\nTraceback")
        assert why(Mock(side_effect=error)) == "This GPU is too old"
    for error in (RuntimeError("CUDA out of memory"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            why(Mock(side_effect=error))


def test_diffusers_knows_every_library_and_downloads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    active = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    values: list[str] = []

    def dispatch(q: Tensor, k: Tensor, v: Tensor, *, backend: AttentionBackendName) -> Tensor:
        assert (q.shape[1], k.shape[1], v.shape[1]) == (190, 32, 32)
        values.append(backend.value)
        return q

    monkeypatch.setattr(attention_dispatch, "dispatch_attention_fn", dispatch)
    for name in LIBRARIES:
        BACKENDS[name](*sides(32))
    assert len(values) == len(LIBRARIES)
    assert set(values) <= {backend.value for backend in AttentionBackendName}
    assert not any(value.endswith("_hub") for value in values)
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == active


@pytest.mark.parametrize("value", ["native", "_native_math"])
def test_diffusers_changes_no_number(value: str) -> None:
    q, k, v = sides(260)
    result = backends.attend_by_diffusers(value, q, k, v)
    assert distance(result, plain(q, k, v)) < 2 * MEASURED[torch.float32]


def test_sage_is_called_with_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through diffusers' own code, with a stand-in for the library's function."""

    def sageattn(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str, is_causal: bool, **rest: Any) -> Tensor:
        assert (tensor_layout, is_causal, rest["sm_scale"]) == ("NHD", False, None)
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    monkeypatch.setattr(attention_dispatch, "sageattn", sageattn)
    installed = replace(BACKENDS["sage"], devices=(), module="torch")
    monkeypatch.setattr(backends, "BACKENDS", {"auto": AUTO, "sage": installed})
    assert backends.list_runnable(CPU, torch.float32, 64) == ("auto", "sage")
    assert backends.list_runnable_titles(64) == ("auto", "sage (approximate)")
    attention = get_backend("sage", CPU, torch.float32, 64)
    q, k, v = sides(260)
    assert distance(attention(q, k, v), plain(q, k, v)) < 2 * MEASURED[torch.float32]


def test_only_eight_bits_are_approximate() -> None:
    approximate = [name for name, each in BACKENDS.items() if not each.exact]
    assert approximate == [name for name in LIBRARIES if name.startswith("sage")]
    assert {name for name, each in BACKENDS.items() if not each.module} == {"auto", *TORCH}


def test_both_networks_use_the_backend(nano_folder: Path, nano: Models, portrait: Tensor) -> None:
    models = load_models(nano_folder, CPU, "fp32", attention=BACKENDS["math"])
    expected, result = (video(portrait, speech_of(24000), each, steps=2) for each in (nano, models))
    assert 0 < float((result - expected).abs().max()) < 1e-4, "rounding only"
    for residency in (models.transformer, models.reference):
        with residency as network:
            used = [getattr(module, "attention", None) for module in network.modules()]
        assert used.count(BACKENDS["math"]) >= models.config.trunk.layers
        assert set(used) == {None, BACKENDS["math"]}
