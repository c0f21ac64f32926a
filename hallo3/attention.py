"""Attention backends by name: torch's own kernels, and libraries through diffusers' dispatch.

Exact backends differ by rounding only. Approximate ones multiply in eight bits; they run only where the user
names them. Nothing here changes a setting of torch's or diffusers', and nothing is fetched.

B samples, H heads, N queries, M keys, D channels a head.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import InputError, is_out_of_memory
from .model.layers import Attention, sdpa
from .noise import make_generator

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""torch's kernels by their plain names."""
WRONG = 0.25
"""Relative distance from plain attention beyond which a probe is no attention at all. Measured: keys or
heads in a wrong order 1.1; q and k rounded to int8 0.009, v to e4m3 besides 0.03."""
REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    NameError,
    ImportError,
    AssertionError,
    OSError,
)
"""What torch, diffusers and the libraries raise where they cannot run; a kernel left out of a library's build
is a name that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBackend:
    """One way to compute attention, called as any other. ``exact`` says whether it differs from others by
    rounding only, ``devices`` where it may run at all (empty: anywhere), ``module`` and ``package`` what
    must be installed for it."""

    name: str
    attend: Attention
    exact: bool = True
    devices: tuple[str, ...] = ()
    module: str = ""
    package: str = ""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v)

    @property
    def title(self) -> str:
        """The name for reports, which says when it is approximate."""
        return self.name if self.exact else f"{self.name} (approximate)"


def through_diffusers(value: str) -> Attention:
    """An attention by the backend that diffusers calls so (a value of its ``AttentionBackendName``).

    diffusers wants [B, N, H, D]: views of the same numbers. Its active backend stays as it is.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

        dispatch, backend = cast(Any, dispatch_attention_fn), AttentionBackendName(value)
        made: Tensor = dispatch(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), backend=backend)
        return made.transpose(1, 2)

    return attend


def _kernel(name: str) -> AttentionBackend:
    """Exactly one of torch's kernels. Other devices than these two would not ask which is allowed."""
    kernel = KERNELS[name]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v)

    return AttentionBackend(name=name, attend=attend, devices=() if name == "math" else ("cuda", "cpu"))


def _library(name: str, value: str, module: str, package: str, *, exact: bool = True) -> AttentionBackend:
    attend = through_diffusers(value)
    return AttentionBackend(
        name=name, attend=attend, exact=exact, devices=("cuda",), module=module, package=package
    )


def _sage(name: str, value: str) -> AttentionBackend:
    return _library(name, value, "sageattention", "sageattention 2.1.1 or newer", exact=False)


AUTO = AttentionBackend(name="auto", attend=sdpa)
"""torch chooses among its own kernels, all of them exact."""
BACKENDS: Mapping[str, AttentionBackend] = {
    backend.name: backend
    for backend in (
        AUTO,
        *map(_kernel, KERNELS),
        _library("flash-2", "flash", "flash_attn", "flash-attn 2.6.3 or newer"),
        _library("flash-3", "_flash_3", "flash_attn_interface", "FlashAttention 3, from its source"),
        _library("xformers", "xformers", "xformers", "xformers 0.0.29 or newer"),
        _sage("sage", "sage"),
        _sage("sage-fp16", "_sage_qk_int8_pv_fp16_cuda"),
        _sage("sage-triton", "_sage_qk_int8_pv_fp16_triton"),
        _sage("sage-fp8", "_sage_qk_int8_pv_fp8_cuda"),
        _sage("sage-fp8-sm90", "_sage_qk_int8_pv_fp8_cuda_sm90"),
    )
}
"""Every backend by its name. Not among them: what diffusers would fetch from a hub, what needs a mask or a
compiler to be of use, and the variants for samples of unequal length."""


def get_backend(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionBackend:
    """The backend of a name, if it runs on this device in this type with so many channels a head.

    Raises ``InputError`` for a name that is none, and for a backend that cannot run here.
    """
    backend = BACKENDS.get(name)
    if backend is None:
        raise InputError(
            "There is no such attention.",
            found=repr(name),
            expected=", ".join(BACKENDS),
            fix="choose one of these; `hallo3 doctor` says which of them run on this machine",
        )
    trouble = "" if backend is AUTO else why_not(backend, device, dtype, head_dim)
    if trouble:
        missing = bool(backend.module) and find_spec(backend.module) is None and device.type == "cuda"
        install = f"install {backend.package}, or " if missing else ""
        raise InputError(
            "This attention cannot run here.",
            found=f"{name} on {device.type} in {str(dtype).removeprefix('torch.')}: {trouble}",
            expected=", ".join(BACKENDS[there].title for there in runnable(device, dtype, head_dim)),
            fix=f"{install}choose one of these; auto leaves the choice to torch",
        )
    return backend


def runnable(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[str, ...]:
    """The names of all backends that run on a device in a type, with ``head_dim`` channels a head, each tried
    by two small calls."""
    return tuple(name for name, each in BACKENDS.items() if not why_not(each, device, dtype, head_dim))


def runnable_here(head_dim: int) -> tuple[str, ...]:
    """Titles of what runs where a run goes unless it is told otherwise: a GPU in bf16, or the CPU in fp32."""
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    return tuple(BACKENDS[name].title for name in runnable(torch.device(device), dtype, head_dim))


def why_not(backend: AttentionBackend, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """What keeps a backend from running so; empty if nothing does. Raises ``RuntimeError`` if memory runs
    out."""
    if backend.devices and device.type not in backend.devices:
        return f"it runs on {' and '.join(backend.devices)} only"
    if backend.module and find_spec(backend.module) is None:
        return f"{backend.package} is not installed"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            return _probe(backend.attend, device, dtype, head_dim)
        except Exception as error:
            if is_out_of_memory(error) or not _is_refusal(error):
                raise
            if "'NoneType'" in str(error):
                return f"diffusers cannot use the {backend.module} that is installed: too old, or broken"
            return "; ".join(_short(each) for each in (*(each.message for each in said), error))


def _is_refusal(error: Exception) -> bool:
    """Whether an error only says that a backend cannot run. Libraries that compile when they are called raise
    triton's errors, or those of the compiler it calls."""
    compiling = type(error).__module__.startswith("triton") or type(error).__name__ == "CalledProcessError"
    return compiling or isinstance(error, REFUSALS)


def _short(reason: Warning | Exception | str) -> str:
    """The first sentence of what a library says, without where in its source it says so."""
    line = (str(reason).splitlines() or [type(reason).__name__])[0]
    return line.split(" (Triggered internally")[0].split(". ")[0].strip(" .")


def _probe(attend: Attention, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Two small calls as the networks make them, a self-attention and a cross-attention whose tokens all
    frames share; what is wrong with the answers."""
    for frames, keys in ((1, 340), (2, 32)):
        q = _tokens("q", frames, 300, head_dim).to(device, dtype).transpose(1, 2)
        k, v = (
            _tokens(name, 1, keys, head_dim).to(device, dtype).transpose(1, 2).expand(frames, -1, -1, -1)
            for name in ("k", "v")
        )
        found, wanted = attend(q, k, v).float(), sdpa(q.float(), k.float(), v.float())
        if found.shape != wanted.shape:
            return f"it gives the shape {list(found.shape)}, not {list(wanted.shape)}"
        distance = float((found - wanted).square().sum().sqrt() / wanted.square().sum().sqrt())
        if not distance < WRONG:  # NaN is not smaller either
            return f"its answer is {distance:.2g} away from plain attention"
    return ""


def _tokens(name: str, batch: int, count: int, head_dim: int) -> Tensor:
    """Random tokens [batch, count, 2, head_dim]."""
    shape = batch, count, 2, head_dim
    drawn: Any = make_generator(f"attention {name}").standard_normal(shape, dtype="float32")
    return torch.from_numpy(drawn)


class Watched:
    """Called like any other attention, with the same numbers; whoever loads the networks owns it.

    Of several shapes the largest is told, which is the joint self-attention. For ``auto`` torch is asked once
    for every shape that is larger than all before; asking waits for nothing.
    """

    def __init__(self, attention: Attention = AUTO) -> None:
        self._attend = AUTO if attention is sdpa else attention
        self._largest, self._ran = 0, ""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = q.shape[-2] * k.shape[-2]
        if size > self._largest and not torch.compiler.is_compiling():
            self._largest, self._ran = size, self._told(q, k, v)
        return self._attend(q, k, v)

    @property
    def ran(self) -> str:
        """What ran, as "torch, flash" or "sage (approximate)"; empty if nothing did."""
        return self._ran

    def _told(self, q: Tensor, k: Tensor, v: Tensor) -> str:
        backend = self._attend
        if not isinstance(backend, AttentionBackend):
            return getattr(backend, "__name__", type(backend).__name__)
        if backend is AUTO:
            return chosen_by_torch(q, k, v)
        return f"torch, {backend.name}" if backend.name in KERNELS else backend.title


def watched(attention: Attention) -> Watched:
    """An attention with a watch; one that has a watch keeps its own."""
    return attention if isinstance(attention, Watched) else Watched(attention)


def chosen_by_torch(q: Tensor, k: Tensor, v: Tensor) -> str:
    """The kernel that torch would choose for these, as "torch, flash"; "torch" where it does not say."""
    ask = getattr(torch, "_fused_sdp_choice", None)
    try:
        number = -1 if ask is None else int(ask(q, k, v))
    except (RuntimeError, TypeError):  # a device without a choice; another signature
        number = -1
    names = (name for name, kernel in KERNELS.items() if int(cast(Any, kernel)) == number)
    return ", ".join(("torch", *names))
