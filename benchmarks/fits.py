"""Whether runs under memory plans fit, by a model of PyTorch's allocator on any machine.

The allocations of a full-size run are recorded on the meta device, once per arrangement of conditions and
passes and once per plan of a decode. They are replayed for every limit: weights are fetched by the package's
own ``StreamedModule`` as the recorded modules are entered, every request goes through ``CachingAllocator``,
and two segments are rendered. Convolutions get memory in which cuDNN changes the layout of their input and
output; where none is left cuDNN computes without: such a request is counted as refused, and ends no run.

PyTorch is held to the plan's share of a device, so these runs are also those on Windows, which has no
expandable segments, and where what exceeds the device would go to RAM instead of failing.
"""

from __future__ import annotations

import weakref
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from math import prod
from typing import Any, NamedTuple, Self, cast
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.allocator import AllocatorFullError, Block, CachingAllocator
from benchmarks.ceilings import (
    META,
    MetaVAE,
    Rehearsal,
    SynchronousExecutor,
    lay_out_groups,
    make_streamable,
    place,
)
from benchmarks.counts import Tracker, attention
from benchmarks.report import Result, Scenario
from hallo3.config import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import InputError
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.transformer import Hallo3Transformer
from hallo3.offload import streaming
from hallo3.offload.budget import MemoryPlan, plan_memory
from hallo3.offload.estimate import DEVICE, DISK, MemoryRequirements, OffloadConfig
from hallo3.offload.sizes import ModelSizes, measure_sizes
from hallo3.offload.weight_store import AUDIO_KERNEL, choose_resident, split_for_disk, split_groups
from hallo3.quantization import FP8, PRECISIONS
from hallo3.units import GB
from hallo3.vae.autoencoder import build_vae
from hallo3.vae.causal_conv import DecodePlan

STAGES = ("prompt", "portrait", "reference", "prepare", "encode", "listen", "sample", "decode")
ALLOCATE, FREE, SCRATCH, TOUCH, ENTER, EXIT, RELEASE = range(7)
MAIN, COPIES = 0, 1  # streams
WORKSPACES = (32 << 20, 32 << 20)  # of cuBLAS and cuBLASLt, at most
LIMITS = tuple(limit / 2 for limit in range(12, 49))
BARE_CARDS = (6.44, 8.59, 12.88, 17.18, 25.77)  # 6, 8, 12, 16 and 24 GiB, all of it free
RAM = (8, 16, 32, 64)
KINDS = {"segments": False, "expandable": True}
Event = tuple[int, Any, int]


class Recorder(Tracker):
    """Records what is allocated and freed on meta, by stage."""

    def __init__(self) -> None:
        super().__init__("meta")
        self.stages: list[list[Event]] = [[]]
        self._numbers, self._kept, self._count = dict[int, int](), dict[int, Any](), count()

    def restart_peak(self) -> None:
        self.stages.append([])

    def note(self, kind: int, what: Any = None, size: int = 0) -> None:
        self.stages[-1].append((kind, what, size))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if "convolution" in func.name() and args[0].is_meta:
            self.note(SCRATCH, None, convolution_scratch(args[0], args[1], result))
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = cast(Any, tensor.untyped_storage())
        key, size = storage._cdata, storage.nbytes()
        if not tensor.is_meta or key in self._numbers or not size:
            return
        number = self._numbers[key] = next(self._count)

        def gone(_: Any) -> None:
            del self._numbers[key], self._kept[number]
            self.note(FREE, number)

        self._kept[number] = weakref.ref(storage, gone)
        self.note(ALLOCATE, (number, COPIES if tensor.dtype is torch.uint8 else MAIN), size)

    def __enter__(self) -> Self:
        self._patch = mock.patch.object(torch.cuda, "empty_cache", partial(self.note, RELEASE))
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._patch.stop()
        super().__exit__(*raised)


def convolution_scratch(signal: Tensor, weight: Tensor, out: Tensor) -> int:
    """Bytes in which cuDNN converts a convolution to the layout that its fast kernels take, and back."""
    if prod(weight.shape[2:]) == 1:  # a matrix product
        return 0
    last = torch.channels_last_3d if signal.dim() == 5 else torch.channels_last
    if signal.dim() > 3 and signal.is_contiguous(memory_format=last):
        return weight.nbytes
    return weight.nbytes + signal.nbytes + out.nbytes


class RecordedTransformer:
    """A network with its weights; notes which of its modules are entered."""

    def __init__(self, network: Hallo3Transformer, recorder: Recorder) -> None:
        self._network, self._note = network, recorder.note
        for name, module in cast("Iterator[tuple[str, nn.Module]]", network.named_modules()):
            module.register_forward_pre_hook(partial(self._touch, name))

    def _touch(self, name: str, *_: object) -> None:
        self._note(TOUCH, name)

    def __enter__(self) -> Hallo3Transformer:
        self._note(ENTER)
        return self._network

    def __exit__(self, *_: object) -> None:
        self._note(EXIT)


class Weights(NamedTuple):
    """Names, packed bytes and sequences of a transformer's weight groups, and the bytes of other tensors."""

    network: Hallo3Transformer
    sequences: Sequence[Sequence[streaming.WeightGroup]]
    groups: dict[streaming.WeightGroup, int]
    ungrouped: list[int]


class Traces:
    """Recorded stages of a model's runs, each recorded when it is first asked for."""

    def __init__(self, sizes: ModelSizes, requirements: MemoryRequirements, steps: int, slices: int) -> None:
        self.sizes, self.requirements = sizes, requirements
        self._steps, self._slices = steps, slices
        self._runs: dict[tuple[Any, ...], dict[str, list[Event]]] = {}
        self._decodes: dict[DecodePlan, list[Event]] = {}
        self._weights: dict[bool, Weights] = {}

    def stages(self, plan: MemoryPlan) -> dict[str, list[Event]]:
        """All before the decode."""
        offload = plan.offload
        key = (offload.passes, offload.on_access, offload.steps_on_access)
        if key not in self._runs:
            recorder, network, precision = Recorder(), self._network(), self.requirements.precision
            for name, tensor in network.named_parameters():
                dtype = FP8 if precision.is_fp8(name) else precision.compute
                streaming.set_tensors(network, {name: torch.empty(tensor.shape, dtype=dtype, device=META)})
            rehearsal = Rehearsal(sizes=self.sizes, requirements=self.requirements, plan=plan)
            transformer = RecordedTransformer(network, recorder)
            rehearsal.run(self._steps, 0, tracker=recorder, transformer=transformer)
            self._runs[key] = dict(zip(STAGES, recorder.stages[1:], strict=True))
        return self._runs[key]

    @torch.no_grad()
    def decode(self, plan: DecodePlan) -> list[Event]:
        if plan not in self._decodes:
            config = self.sizes.config
            vae = MetaVAE(build_vae(config.vae).network, config.vae.scaling_factor, plan)
            residency = place(make_streamable(vae, [], self.requirements.precision))
            latents = torch.empty(1, config.trunk.latent_channels, *config.segment.shape.latent, device=META)
            with Recorder() as recorder:
                self._decode(residency, latents)
            self._decodes[plan] = recorder.stages[-1]
        return self._decodes[plan]

    def _decode(self, residency: AbstractContextManager[MetaVAE], latents: Tensor) -> None:
        with residency as vae:
            for number, frames in enumerate(vae.decode(latents), 1):
                frames.float()
                del frames
                if number == self._slices:
                    break

    def weights(self, *, on_disk: bool) -> Weights:
        """``on_disk`` the kernel of the audio projection is in no group; it is read in pieces."""
        if on_disk not in self._weights:
            network, precision = self._network(), self.requirements.precision
            sequences: Sequence[Any] = split_for_disk(network) if on_disk else split_groups(network)
            if on_disk:
                sequences = [
                    [tuple(layer for layer in group if layer != AUDIO_KERNEL) for group in groups]
                    for groups in sequences
                ]
            layouts = lay_out_groups(network, sequences, precision)
            others = streaming.ungrouped_tensors(network, sequences)
            kernel = f"{AUDIO_KERNEL}.weight" if on_disk else ""
            ungrouped = [each.numel() * precision.compute.itemsize for name, each in others if name != kernel]
            groups = {group: layout.size for group, layout in layouts.items()}
            self._weights[on_disk] = Weights(network.eval(), sequences, groups, ungrouped)
        return self._weights[on_disk]

    def _network(self) -> Hallo3Transformer:
        layers = self.requirements.precision.layers("meta")
        layers = replace(layers, attention=attention, kernels=FUSED if self.requirements.fused else PLAIN)
        return Hallo3Transformer(self.sizes.config, layers)


class ReplayedTransformer:
    """Fetches weights as a plan says while recorded modules are entered."""

    def __init__(self, traces: Traces, offload: OffloadConfig, allocator: CachingAllocator) -> None:
        on_disk = offload.home == DISK
        network, sequences, self._groups, self._ungrouped = traces.weights(on_disk=on_disk)
        self._places = streaming.map_modules_to_groups(sequences)
        self._allocator, self._stays = allocator, offload.home == DEVICE
        self._pieces = [traces.sizes.transformer.piece] * 3 if on_disk else []
        self._held: list[Block] = []
        resident = choose_resident(sequences[0], offload.resident)
        module = streaming.StreamableModule(network, sequences, self._fetch, resident)
        self._streamed = streaming.StreamedModule(lambda: module, META, executor=SynchronousExecutor)

    def enter(self) -> None:
        if not (self._stays and self._held):
            sizes = (*self._ungrouped, *(self._groups.values() if self._stays else ()))
            self._held = [self._allocator.allocate(size) for size in sizes]
        if not self._stays:
            self._streamed.__enter__()

    def touch(self, name: str) -> None:
        if self._stays or name not in self._places:
            return
        cast(Any, self._streamed)._stream._load_group(*self._places[name])
        if name == "audio_proj.proj3":  # the convolution after it reads its kernel
            for piece in [self._allocator.allocate(size) for size in self._pieces]:
                self._allocator.free(piece)

    def exit(self) -> None:
        if self._stays:
            return
        for block in self._held:
            self._allocator.free(block)
        self._held = []
        self._streamed.__exit__(None, None, None)

    def _fetch(self, group: streaming.WeightGroup) -> dict[str, Tensor]:
        block = self._allocator.allocate(self._groups[group], COPIES)
        packed = torch.empty(1, dtype=torch.uint8, device=META)
        weakref.finalize(packed.untyped_storage(), self._allocator.free, block).atexit = False
        return {f"{group[0]}.weight": packed}


class Outcome(NamedTuple):
    """``failed``: the stage that ran out of memory, and the request; nothing if the run fits."""

    failed: str
    reserved: int
    allocated: int
    refused: int
    flushes: int


@dataclass(kw_only=True)
class Replay:
    """A run of two segments under a plan through an allocator."""

    traces: Traces
    plan: MemoryPlan
    allocator: CachingAllocator
    refused: int = 0
    stage: str = "start"
    _blocks: dict[Any, Block] = field(default_factory=dict[Any, Block])

    def run(self) -> Outcome:
        failed, allocator = "", self.allocator
        stages, decode = self.traces.stages(self.plan), self.traces.decode(self.plan.offload.decode)
        transformer = ReplayedTransformer(self.traces, self.plan.offload, allocator)
        with mock.patch.object(torch.cuda, "empty_cache", allocator.release_cached):
            try:
                self._run(stages, decode, transformer)
            except AllocatorFullError as error:
                failed = f"{self.stage}: {error}"
                transformer.exit()
        return Outcome(
            failed, allocator.reserved_peak, allocator.allocated_peak, self.refused, allocator.flushes
        )

    def _run(
        self, stages: dict[str, list[Event]], decode: list[Event], transformer: ReplayedTransformer
    ) -> None:
        resident = [self.traces.sizes.vae] * (self.plan.offload.home == DEVICE)
        for number, size in enumerate((*WORKSPACES, *resident)):
            self._allocate(("held", number), size)
        for self.stage in ("prompt", "portrait", "reference", "prepare", *("encode", "sample", "decode") * 2):
            if self.stage == "decode":
                self._replay(decode, transformer)
            else:
                self._replay(stages[self.stage], transformer)

    def _replay(self, events: list[Event], transformer: ReplayedTransformer) -> None:
        recorded = self.stage == "decode"
        for kind, what, size in events:
            if kind == ALLOCATE:
                self._allocate((recorded, what[0]), size, what[1])
            elif kind == FREE:
                if (recorded, what) in self._blocks:
                    self.allocator.free(self._blocks.pop((recorded, what)))
            elif kind == SCRATCH:
                try:
                    self.allocator.free(self.allocator.allocate(size, MAIN))
                except AllocatorFullError:
                    self.refused += 1
            elif kind == TOUCH:
                transformer.touch(what)
            elif kind == ENTER:
                transformer.enter()
            elif kind == EXIT:
                transformer.exit()
            else:
                torch.cuda.empty_cache()

    def _allocate(self, key: Any, size: int, stream: int = MAIN) -> None:
        if key in self._blocks:  # of the segment before
            self.allocator.free(self._blocks.pop(key))
        self._blocks[key] = self.allocator.allocate(size, stream)


def plan(traces: Traces, limit: float, ram: float) -> MemoryPlan:
    """Raises ``InputError`` if nothing fits."""
    return plan_memory(traces.sizes, traces.requirements, round(limit * GB), round(ram * GB))


def full_traces(
    precision: str = "bf16", *, fused: bool = True, layers: int = 42, steps: int = 2, slices: int = 3
) -> Traces:
    """Of the released model, or one with fewer ``layers``: 50 guided steps are planned, ``steps`` of them and
    ``slices`` of a decode are recorded."""
    config = replace(HALLO3, trunk=replace(HALLO3.trunk, layers=layers))
    planned, number = HALLO3.defaults.steps, PRECISIONS[precision]
    requirements = MemoryRequirements(precision=number, steps=planned, branches=2, fused=fused)
    sizes = measure_sizes(config, number, TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])
    return Traces(sizes, requirements, steps, slices)


def measure_row(traces: Traces, limit: float, ram: float) -> Result:
    """A limit in GB, which PyTorch is held to, with and without expandable segments; on Windows what a limit
    does not hold lies in RAM, silently."""
    row: Result = {"limit_gb": limit, "ram_gb": [ram]}
    row |= {"plan": describe(traces, limit, ram)}
    if row["plan"].startswith("refused"):
        return row
    planned = plan(traces, limit, ram)
    for name, expandable in KINDS.items():
        allocator = CachingAllocator(planned.torch_limit, expandable=expandable)
        outcome = Replay(traces=traces, plan=planned, allocator=allocator).run()
        row[name] = {
            "fits": not outcome.failed,
            "failed": outcome.failed,
            "reserved_gb": round(outcome.reserved / GB, 3),
            "allocated_gb": round(outcome.allocated / GB, 3),
            "planned_gb": round(planned.peak / GB, 3),
            "scratch_refused": outcome.refused,
            "flushes": outcome.flushes,
        }
    return row


def measure(options: Namespace) -> Result:
    """A row per plan: computers with more RAM often have the same."""
    traces = full_traces(options.precision, fused=not options.plain)
    rows: list[Result] = []
    for limit in sorted(options.limits or (*LIMITS, *BARE_CARDS)):
        known: dict[str, Result] = {}
        for ram in RAM:
            title = describe(traces, limit, ram)
            if title in known:
                known[title]["ram_gb"].append(ram)
                continue
            row = known[title] = measure_row(traces, limit, ram)
            rows.append(row)
            _show_row(row)
    return {"precision": options.precision, "fused": not options.plain, "rows": rows}


def describe(traces: Traces, limit: float, ram: float) -> str:
    """The plan in words, or why there is none."""
    try:
        return plan(traces, limit, ram).line()
    except InputError as error:
        return f"refused: {error.headline} {error.expected}"


def _show_row(row: Result) -> None:
    title = f"{row['limit_gb']:g} GB, {row['ram_gb'][0]:g} GB of RAM or more"
    print(f"{title}: {row['plan']}")
    for name in row.keys() & KINDS:
        one = row[name]
        print(
            f"  {name:<10} {'fits' if one['fits'] else one['failed']}; allocated {one['allocated_gb']:.2f}, "
            f"planned {one['planned_gb']:.2f}, reserved {one['reserved_gb']:.2f} GB; "
            f"{one['scratch_refused']} without scratch, {one['flushes']} flushes",
            flush=True,
        )


def show(result: Result, _: Namespace) -> None:
    runs = [row[name] for row in result["rows"] for name in row.keys() & KINDS]
    print(f"{sum(run['fits'] for run in runs)} of {len(runs)} planned runs fit")


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "limits", type=float, nargs="*", metavar="GB", help="default: 6 to 24 by 0.5, bare cards"
    )
    parser.add_argument("--precision", default="bf16", choices=tuple(PRECISIONS))
    parser.add_argument("--plain", action="store_true", help="without fused kernels")


FITS = Scenario(measure=measure, add_options=add_options, show=show)
