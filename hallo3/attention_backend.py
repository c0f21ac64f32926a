"""Attention backends by name: torch's kernels, and libraries through diffusers' dispatcher.

diffusers selects a backend for the whole process, downloads some of them, and does not try them. Here a
backend is chosen once per run and tried with two small calls; no setting of torch or diffusers changes,
nothing is downloaded.

Exact backends differ by rounding only. Approximate ones multiply in 8 bits and run only where the user names
them. B samples, H heads, N queries, M keys, D channels per head.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .config import Hallo3Config
from .errors import InputError, check_choice, is_out_of_memory
from .model.kernels.select import is_compiler_error, relative_distance
from .model.layers import Attention, sdpa
from .noise import make_generator
from .residency import release_cached_memory
from .storage.files import cache_path, read_json_or_empty, write_json
from .units import format_bytes

MAX_DISTANCE = 0.25
"""Largest relative distance of a trial from plain attention. Measured: wrong order of keys or heads 1.1; q
and k rounded to int8 0.009, v to e4m3 as well 0.03."""
UNSUPPORTED_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    NameError,
    ImportError,
    AssertionError,
    OSError,
)
"""Raised by torch, diffusers and the libraries if they cannot run; a NameError is a kernel missing from a
build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBackend:
    """``exact``: differs by rounding only. ``devices``: where it can run (empty: anywhere). ``module``,
    ``package``: what must be installed."""

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
        return self.name if self.exact else f"{self.name} (approximate)"


def attend_by_diffusers(value: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``value`` is one of diffusers' ``AttentionBackendName``. diffusers takes [B, N, H, D]: views."""
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    dispatch, backend = cast(Any, dispatch_attention_fn), AttentionBackendName(value)
    out: Tensor = dispatch(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), backend=backend)
    return out.transpose(1, 2)


def _kernel(name: str, kernel: SDPBackend, *devices: str) -> AttentionBackend:
    return AttentionBackend(name=name, attend=sdpa_kernel(kernel)(sdpa), devices=devices)


def _library(name: str, value: str, module: str, package: str, *, exact: bool = True) -> AttentionBackend:
    attend = partial(attend_by_diffusers, value)
    return AttentionBackend(
        name=name, attend=attend, exact=exact, devices=("cuda",), module=module, package=package
    )


def _sage(name: str, value: str) -> AttentionBackend:
    return _library(name, value, "sageattention", "sageattention 2.1.1 or newer", exact=False)


TIMED = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
"""torch's exact kernels, in the order in which torch tries them."""
MIN_TIMED_SCORES = 2**24
"""Scores of a head above which the kernel matters: joint attention has 3.4e8 at full size, others 2.5e6."""


class FastestKernel:
    """torch's attention by the exact kernel that is fastest on this card: they differ by up to 2.3 times, in
    an order that depends on card and version (docs/decisions/014). They are timed once, with the first real
    queries and keys; the answer is remembered for the card, torch's version and the shape. Where that kernel
    cannot run, torch takes the next."""

    def __init__(
        self, clock: Callable[[Callable[[], object]], float], path: Callable[[], Path | None]
    ) -> None:
        self._clock, self._path = clock, path
        self._chosen: dict[str, str] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.matters(q, k):
            return sdpa(q, k, v)
        name = self.choose(q, k, v)
        order = [TIMED[name], *(each for each in TIMED.values() if each is not TIMED[name]), SDPBackend.MATH]
        with sdpa_kernel(order, set_priority=True):
            return sdpa(q, k, v)

    def matters(self, q: Tensor, k: Tensor) -> bool:
        """On CUDA; not while gradients are needed or a compiler looks."""
        many = q.shape[-2] * k.shape[-2] >= MIN_TIMED_SCORES
        return q.is_cuda and many and not torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def choose(self, q: Tensor, k: Tensor, v: Tensor) -> str:
        """Name of the fastest kernel for queries and keys of this shape."""
        card = torch.cuda.get_device_name(q.device) if q.is_cuda else q.device.type
        sizes = f"{q.shape[1]} heads of {q.shape[3]}, {q.shape[2]} x {k.shape[2]}"
        key = f"{card}, torch {torch.__version__}, {str(q.dtype).removeprefix('torch.')}, {sizes}"
        if key not in self._chosen:
            path = self._path()
            known = {} if path is None else read_json_or_empty(path)
            if known.get(key) not in TIMED:
                known[key], complete = self._time(q, k, v)
                with suppress(OSError):
                    if path is not None and complete:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        write_json(path, known)
            self._chosen[key] = known[key]
        return self._chosen[key]

    def _time(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[str, bool]:
        """The fastest, and whether memory was enough to time all that can run."""
        seconds, complete = dict[str, float](), True
        for name, kernel in TIMED.items():
            try:
                with warnings.catch_warnings(), sdpa_kernel(kernel):
                    warnings.simplefilter("ignore")
                    seconds[name] = self._clock(lambda: sdpa(q, k, v))
            except UNSUPPORTED_ERRORS as error:
                complete &= not is_out_of_memory(error)
        return min(seconds, key=lambda name: seconds[name], default="flash"), complete


def time_on_gpu(run: Callable[[], object]) -> float:
    """Seconds of the faster of two calls, after one that may compile."""
    seconds: list[float] = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


AUTO = AttentionBackend(name="auto", attend=FastestKernel(time_on_gpu, partial(cache_path, "attention.json")))
"""torch's own kernels, all of them exact; on CUDA the fastest."""
BACKENDS: Mapping[str, AttentionBackend] = {
    backend.name: backend
    for backend in (
        AUTO,
        # other devices than these two ignore which kernel is allowed
        _kernel("flash", SDPBackend.FLASH_ATTENTION, "cuda", "cpu"),
        _kernel("cudnn", SDPBackend.CUDNN_ATTENTION, "cuda", "cpu"),
        _kernel("efficient", SDPBackend.EFFICIENT_ATTENTION, "cuda", "cpu"),
        _kernel("math", SDPBackend.MATH),
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
"""Not among them: what diffusers downloads from a hub, what needs a mask or a compiler, and the variants for
samples of unequal length."""


def get_backend(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionBackend:
    """Raises ``InputError`` for an unknown name, and for a backend that cannot run here."""
    check_choice(name, BACKENDS, "attention")
    backend = BACKENDS[name]
    reason = "" if backend is AUTO else why_unsupported(backend, device, dtype, head_dim)
    if reason:
        missing = bool(backend.module) and find_spec(backend.module) is None and device.type == "cuda"
        install = f"install {backend.package}, or " if missing else ""
        raise InputError(
            "This attention cannot run here.",
            found=f"{name} on {device.type} in {str(dtype).removeprefix('torch.')}: {reason}",
            expected=", ".join(BACKENDS[each].title for each in list_runnable(device, dtype, head_dim)),
            fix=f"{install}choose one of these; auto leaves the choice to torch",
        )
    return backend


MAX_SCORES_BYTES = 2_000_000_000


def check_scores(
    backend: AttentionBackend, device: torch.device, dtype: torch.dtype, config: Hallo3Config
) -> None:
    """Raise ``InputError`` for an attention that keeps the scores of a whole segment, 33 GB for the released
    model's in 16 bits, before any weights are loaded."""
    trunk, latent = config.trunk, config.segment.shape.latent
    queries = trunk.text_tokens + latent.tokens
    shape = trunk.heads, queries, queries + latent.tokens_per_frame
    size = prod(shape) * dtype.itemsize
    if size <= MAX_SCORES_BYTES or not _keeps_scores(backend, device, dtype, *shape, trunk.head_dim):
        return
    types = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    others = [
        f"--dtype {name}" if backend is AUTO else f"--attention {AUTO.name}"
        for name, each in types.items()
        if (each == dtype) == (backend is not AUTO)
        and not _keeps_scores(AUTO, device, each, *shape, trunk.head_dim)
    ]
    raise InputError(
        "Attention would keep all its scores in memory.",
        found=f"{format_bytes(size)} with {backend.name} on {device} in {str(dtype).removeprefix('torch.')}",
        expected=f"an attention that keeps less than {format_bytes(MAX_SCORES_BYTES)}, such as flash",
        fix=f"use {' or '.join(others or ['--device cpu'])}; --trial fits everywhere",
    )


def _keeps_scores(
    backend: AttentionBackend,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    queries: int,
    keys: int,
    head_dim: int,
) -> bool:
    """Whether PyTorch computes attention of these shapes by plain operations; False if it does not say."""
    if backend is not AUTO:
        return backend.name == "math"
    sides = list[Tensor]()
    try:
        for rows in (queries, keys):
            sides += [torch.empty(1, rows, heads, head_dim, device=device, dtype=dtype).transpose(1, 2)]
        choose = cast(Any, torch)._fused_sdp_choice  # it has no public name
        return int(choose(sides[0], sides[1], sides[1])) == cast(Any, SDPBackend.MATH).value
    except NotImplementedError:  # a device for which PyTorch has no other attention
        return True
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    finally:
        sides.clear()
        release_cached_memory()  # it counts as taken when the run is planned


def list_runnable(device: torch.device, dtype: torch.dtype, head_dim: int) -> tuple[str, ...]:
    """Names of all backends that run, each tried with two small calls."""
    return tuple(
        name for name, each in BACKENDS.items() if not why_unsupported(each, device, dtype, head_dim)
    )


def list_runnable_titles(head_dim: int) -> tuple[str, ...]:
    """Titles of what runs where a run goes by default: a GPU in bf16, or the CPU in fp32."""
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    return tuple(BACKENDS[name].title for name in list_runnable(torch.device(device), dtype, head_dim))


def why_unsupported(
    backend: AttentionBackend, device: torch.device, dtype: torch.dtype, head_dim: int
) -> str:
    """Why a backend cannot run; empty if it can. Raises ``RuntimeError`` if memory runs out."""
    if backend.devices and device.type not in backend.devices:
        return f"it runs on {' and '.join(backend.devices)} only"
    if backend.module and find_spec(backend.module) is None:
        return f"{backend.package} is not installed"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return _try(backend.attend, device, dtype, head_dim)
        except Exception as error:
            unsupported = is_compiler_error(error) or isinstance(error, UNSUPPORTED_ERRORS)
            if is_out_of_memory(error) or not unsupported:
                raise
            if "'NoneType'" in str(error):  # diffusers' placeholder for what it could not import
                return f"diffusers cannot use the {backend.module} that is installed: too old, or broken"
            reasons = *(each.message for each in caught), error
            lines = ((str(reason).splitlines() or [type(reason).__name__])[0] for reason in reasons)
            return "; ".join(x.split(" (Triggered internally")[0].split(". ")[0].strip(" .") for x in lines)


def _try(attend: Attention, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Try a self-attention, and a cross-attention whose tokens all frames share; return what is wrong."""
    for frames, keys in ((1, 340), (2, 32)):
        q = _tokens("q", frames, 300, head_dim).to(device, dtype).transpose(1, 2)
        k, v = (
            _tokens(name, 1, keys, head_dim).to(device, dtype).transpose(1, 2).expand(frames, -1, -1, -1)
            for name in ("k", "v")
        )
        out, expected = attend(q, k, v).float(), sdpa(q.float(), k.float(), v.float())
        if out.shape != expected.shape:
            return f"it gives the shape {list(out.shape)}, not {list(expected.shape)}"
        if not (distance := relative_distance(out, expected)) < MAX_DISTANCE:  # false for NaN, too
            return f"its answer is {distance:.2g} away from plain attention"
    return ""


def _tokens(name: str, batch: int, count: int, head_dim: int) -> Tensor:
    """Random tokens [batch, count, 2, head_dim]."""
    generator: Any = make_generator(f"attention {name}")
    return torch.from_numpy(generator.standard_normal((batch, count, 2, head_dim), dtype="float32"))
