"""Count a sampling step on the meta device, without weights: operations, bytes moved, and bytes held at once.

``Tracker`` counts all that each operation reads and writes; views move nothing, and a fused kernel
(``hallo3::``) counts by its inputs and outputs. FLOP are counted with PyTorch's own operations.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Self
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import Inputs, Networks, Place
from benchmarks.report import Panel, Result, Scenario, draw_bars
from hallo3.config import HALLO3, Hallo3Config
from hallo3.model.guidance import GUIDANCE_PASSES, Predict
from hallo3.model.kernels.eager import PLAIN, Kernels
from hallo3.model.kernels.fused import FUSED
from hallo3.model.layers import Attention, sdpa
from hallo3.model.transformer import RunConditions, SegmentConditions

META = torch.device("meta")
ORIGINAL = {"flop": 8.369084e14, "bytes": 1.318e12, "peak": 4.17e9}
"""One step of the original, both guidance branches, counted the same way."""


class Tracker(TorchDispatchMode):
    """While entered: ``traffic`` bytes read and written, ``operations`` that moved any, ``live`` bytes of
    storages made since, and their ``peak``. ``kind`` limits storages to one type of device."""

    def __init__(self, kind: str | None = None) -> None:
        super().__init__()
        self._kind = kind
        self._storages: dict[int, tuple[Any, int]] = {}
        self.live = self.peak = self.operations = 0
        self.moved: Counter[str] = Counter()
        self._modes = ExitStack()

    @property
    def traffic(self) -> int:
        return sum(self.moved.values())

    def restart_peak(self) -> None:
        self.peak = self.live

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named, arguments = dict(kwargs or {}), func._schema.arguments
        out = [
            named.pop(argument.name) for argument in arguments if argument.is_out and argument.name in named
        ]
        read = _tensors((args, named))
        before = {_storage(tensor)._cdata for tensor in (*read, *_tensors(out))}
        outputs = _tensors(result := func(*args, **(kwargs or {})))
        writes = any(argument.alias_info and argument.alias_info.is_write for argument in arguments)
        fresh = [tensor for tensor in outputs if _storage(tensor)._cdata not in before]
        if (fresh or writes) and func not in _FREE:
            read = read[1:] if func in _WRITERS else read
            self.moved[str(func)] += sum(map(_bytes, (*read, *(outputs if writes else fresh))))
            self.operations += 1
        for tensor in fresh:
            self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or self._kind not in (None, tensor.device.type):
            return

        def gone(_: Any) -> None:
            self.live -= self._storages.pop(key)[1]

        self._storages[key] = (ref(storage, gone), size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __enter__(self) -> Self:
        """Outside inference mode, where an operation that calls others counts as one."""
        self._modes.enter_context(torch.inference_mode(False))
        self._modes.enter_context(torch.no_grad())
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._modes.close()


_aten = torch.ops.aten
_FREE = {
    _aten.empty.memory_format,
    _aten.new_empty.default,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.detach.default,
}
"""They allocate and write nothing."""
_WRITERS = {
    _aten.fill_.Scalar,
    _aten.zero_.default,
    _aten.zeros_like.default,
    _aten.new_zeros.default,
    _aten.copy_.default,
}
"""They do not read their first tensor."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as on a GPU, one operation that stores no scores; ``sdpa`` on meta stores them."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _tensors(tree: Any) -> list[Tensor]:
    """Those in lists, tuples and dicts of any depth; torch's own walk takes a quarter of a count's time."""
    found, waiting = list[Tensor](), [tree]
    while waiting:
        leaf = waiting.pop()
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, list | tuple):
            waiting += reversed(leaf)
        elif isinstance(leaf, dict):
            waiting += reversed(leaf.values())
    return found


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def _bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; what is only expanded is read once."""
    count = tensor.element_size()
    for extent, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= extent if stride else 1
    return count


class MetaStep:
    """The transformer and the inputs of a step on the meta device."""

    def __init__(
        self, config: Hallo3Config, kernels: Kernels = PLAIN, attend: Attention = attention, steps: int = 1
    ) -> None:
        place = Place(device=META, dtype=torch.bfloat16, config=config, whole_layers=config.trunk.layers)
        self.inputs = Inputs(place, steps)
        self.networks = Networks(self.inputs)
        self.dit = self.networks.dit(kernels, attend)
        self.latents = self.inputs.latents
        self._attention = attend

    @cached_property
    def prepared(self) -> tuple[RunConditions, SegmentConditions]:
        return self.inputs.prepare(self.dit)

    def predict(self, passes: str) -> Predict:
        return GUIDANCE_PASSES[passes](self.dit, *self.prepared)

    def original(self) -> Predict:
        return self.networks.original(PLAIN, self._attention)


@torch.no_grad()
def count_flop(config: Hallo3Config) -> dict[str, int]:
    """FLOP of a step, ours and the original's, and of what is prepared."""
    step = MetaStep(config, attend=sdpa)
    with FlopCounterMode(display=False) as preparation:
        predict = step.predict("batched")
    with FlopCounterMode(display=False) as ours:
        predict(step.latents, 0)
    with FlopCounterMode(display=False) as original:
        step.original()(step.latents, 0)
    return {
        "step": ours.get_total_flops(),
        "of it attention": ours.get_flop_counts()["Global"][torch.ops.aten.bmm],
        "baseline": original.get_total_flops(),
        "preparation": preparation.get_total_flops(),
    }


@torch.no_grad()
def count_bytes(predict: Predict, latents: Tensor) -> Result:
    """Bytes that a step moves and, beside weights and conditions, holds at once; operations."""
    with Tracker() as tracker:
        velocities = predict(latents, 0)
        del velocities
    return {
        "bytes": tracker.traffic,
        "peak": tracker.peak,
        "operations": tracker.operations,
        "by_operation": dict(tracker.moved.most_common(8)),
    }


@torch.no_grad()
def count_step(config: Hallo3Config) -> Result:
    rows: dict[str, Any] = {}
    for kernels in (PLAIN, FUSED):
        step = MetaStep(config, kernels)
        for passes in GUIDANCE_PASSES:
            rows[f"{kernels.name}, {passes}"] = count_bytes(step.predict(passes), step.latents)
    step = MetaStep(config)
    rows["baseline"] = count_bytes(step.original(), step.latents)
    flop, shape = count_flop(config), config.segment.shape
    return {
        "config": config.name,
        "segment": f"{shape.frames} frames of {shape.width} x {shape.height}",
        "flop": flop,
        "steps": rows,
        "original": ORIGINAL,
        "ratio": flop["step"] / ORIGINAL["flop"],
    }


def show(result: Result, _: Namespace) -> None:
    print(f"{'a step':24} {'TB moved':>9} {'GB at once':>11} {'operations':>11}")
    for name, row in result["steps"].items():
        moved, peak = row["bytes"] / 1e12, row["peak"] / 1e9
        print(f"{name:24} {moved:9.3f} {peak:11.2f} {row['operations']:11}")
    flop, ratio = result["flop"]["step"], result["ratio"]
    print(f"FLOP {flop:.6e}, {ratio:.4f} of the original's {ORIGINAL['flop']:.6e}")


def draw_cost(result: Result) -> Tensor:
    """The original's step beside ours: FLOP, bytes moved, bytes held at once."""
    steps, original = result["steps"], result["original"]
    names = ("plain, batched", *(name for name in steps if name.startswith("fused")))

    flop = {"original": original["flop"], "ours": result["flop"]["step"]}
    moved, peaks = (
        {"original": original[kind]} | {f"ours, {name}": steps[name][kind] for name in names}
        for kind in ("bytes", "peak")
    )
    panels = [
        Panel("Operations", "FLOP; equal for all passes", flop, lambda n: f"{n / 1e12:.0f} TFLOP"),
        Panel(
            "Memory traffic",
            "bytes read and written by all operations",
            moved,
            lambda n: f"{n / 1e12:.2f} TB",
        ),
        Panel(
            "Activations",
            "bytes held at once beside weights and conditions",
            peaks,
            lambda n: f"{n / 1e9:.2f} GB",
        ),
    ]
    about = f"the released model's size, {result['segment']}, both guidance branches; counted without weights"
    return draw_bars("What a sampling step costs", about, panels)


COUNTS = Scenario(measure=lambda _: count_step(HALLO3), show=show, draw=draw_cost)
