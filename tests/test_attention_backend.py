"""Attention backends: exact ones equal plain attention; what cannot run is refused with the reason."""

import json
from collections.abc import Callable
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
from hallo3.attention_backend import (
    AUTO,
    BACKENDS,
    AttentionBackend,
    check_scores,
    get_backend,
    why_unsupported,
)
from hallo3.config import HALLO3, NANO
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


class TimesByName:
    """A clock that knows how long each kernel takes, by the kernels that torch may use."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.timed = seconds, list[str]()

    def __call__(self, run: Callable[[], object]) -> float:
        allowed = torch.backends.cuda
        names = {"flash": allowed.flash_sdp_enabled, "cudnn": allowed.cudnn_sdp_enabled}
        names["efficient"] = allowed.mem_efficient_sdp_enabled
        [name] = [name for name, is_on in names.items() if is_on()]
        self.timed.append(name)
        if name not in self.seconds:
            raise RuntimeError("No available kernel. Aborting execution.")
        del run  # not all of them run here
        return self.seconds[name]


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({"flash": 3.0, "cudnn": 1.0, "efficient": 2.0}, "cudnn"),
        ({"flash": 3.0, "efficient": 2.0}, "efficient"),
        ({"cudnn": 3.0}, "cudnn"),
        ({"flash": 1.0, "cudnn": 1.0}, "flash"),
        ({}, "flash"),
    ],
)
def test_the_fastest_kernel_is_timed_once_and_remembered(
    seconds: dict[str, float], fastest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.FastestKernel, "matters", lambda *_: True)
    monkeypatch.setattr(backends, "sdpa", expected := Mock(side_effect=sdpa))
    q, k, v = sides(200)
    path, clock = tmp_path / "cache" / "attention.json", TimesByName(**seconds)
    kernel = backends.FastestKernel(clock, lambda: path)
    for _ in range(2):
        torch.testing.assert_close(kernel(q, k, v), sdpa(q, k, v))
        assert kernel.choose(q, k, v) == fastest
    assert (clock.timed, expected.call_count) == (list(backends.TIMED), 2)
    again = backends.FastestKernel(clock, lambda: path)
    assert again.choose(q, k, v) == fastest
    assert len(clock.timed) == 3, "read from the file"
    again.choose(q.half(), k.half(), v.half())
    assert len(clock.timed) == 6, "another type"
    [key, _] = json.loads(path.read_text())
    assert key == f"cpu, torch {torch.__version__}, float32, 3 heads of 64, 190 x 200"
    for content in ("{", json.dumps({key: "math"}), json.dumps({key: 1})):
        path.write_text(content)
        assert backends.FastestKernel(clock, lambda: path).choose(q, k, v) == fastest
    path.unlink()
    full = Mock(side_effect=[torch.OutOfMemoryError("CUDA out of memory"), 2.0, 1.0])
    assert backends.FastestKernel(full, lambda: path).choose(q, k, v) == "efficient"
    assert not path.exists(), "it was not timed with what it needs"
    nowhere = backends.FastestKernel(clock, lambda: None)
    assert nowhere.choose(q, k, v) == nowhere.choose(q, k, v) == fastest


def test_torch_is_left_alone_where_the_kernel_does_not_matter() -> None:
    kernel: Any = AUTO.attend
    large = torch.empty(1, 48, 17776, 64, device="meta")
    assert not kernel.matters(large, large), "no GPU"
    for changes, wanted in (({}, True), ({"shape": (1, 48, 1350, 64)}, False), ({"is_cuda": False}, False)):
        known = {"is_cuda": True, "shape": large.shape} | changes
        with torch.no_grad():
            assert kernel.matters(Mock(**known), Mock(**known)) is wanted
        assert not kernel.matters(Mock(**known), Mock(**known)), "gradients"


def test_an_attention_that_keeps_its_scores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the released size, asked with tensors of the real shape; the answer of a card before Ampere."""

    def choose(q: Tensor, k: Tensor, _: Tensor) -> int:
        assert (tuple(q.shape), tuple(k.shape)) == ((1, 48, 17776, 64), (1, 48, 19126, 64))
        return 0 if q.dtype == torch.bfloat16 else 2

    released = Mock()
    monkeypatch.setattr(backends, "release_cached_memory", released)
    check_scores(AUTO, CPU, torch.bfloat16, HALLO3)
    assert released.call_count == 1, "a plan counts what is free"
    monkeypatch.setattr(torch, "_fused_sdp_choice", choose)
    check_scores(AUTO, CPU, torch.float16, HALLO3)
    with pytest.raises(InputError, match=r"32\.6 GB with auto(.|\n)*fp16 or --dtype fp32; --trial"):
        check_scores(AUTO, CPU, torch.bfloat16, HALLO3)
    with pytest.raises(InputError, match=r"with math on cpu in float16(.|\n)*use --attention auto; --trial"):
        check_scores(BACKENDS["math"], CPU, torch.float16, HALLO3)
    check_scores(BACKENDS["flash-2"], CPU, torch.bfloat16, HALLO3)
    check_scores(BACKENDS["math"], CPU, torch.bfloat16, NANO)
    monkeypatch.setattr(torch, "_fused_sdp_choice", Mock(side_effect=NotImplementedError))
    with pytest.raises(InputError, match="use --device cpu"):
        check_scores(AUTO, CPU, torch.float32, HALLO3)
    monkeypatch.delattr(torch, "_fused_sdp_choice")
    check_scores(AUTO, CPU, torch.bfloat16, HALLO3)
