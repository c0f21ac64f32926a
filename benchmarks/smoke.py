"""First contact with a device: kernels beside torch's own and their GB/s, streamed weights beside resident
ones, what conditions keep alive, and what a 3D convolution takes in both layouts.

At the released model's width on CUDA, with a few layers; small elsewhere, to try the checks themselves.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks import Inputs, Place, choose_place, fill
from benchmarks.report import CPU, Result, Scenario, describe_machine, format_table, get_device
from benchmarks.streamed import Clock, Row
from benchmarks.times import attempt, show_note
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.kernels.eager import PLAIN, Kernels
from hallo3.model.kernels.fused import FUSED
from hallo3.model.kernels.select import choose_kernels, relative_distance, why_unsupported
from hallo3.model.layers import sdpa
from hallo3.model.transformer import Hallo3Transformer, RunConditions, SegmentConditions
from hallo3.offload.streaming import StreamedModule, store_in_memory
from hallo3.offload.weight_store import choose_resident, split_groups
from hallo3.units import GB

PARTS = ("kernels", "passes", "streaming", "convolutions")
LAYERS = 4
MAX_DISTANCE = 0.02
"""Of a fused kernel from torch's own operations, relative."""


@dataclass(frozen=True, kw_only=True)
class Smoke:
    place: Place
    clock: Clock

    def rows(self) -> Iterator[tuple[str, str, Callable[[], Row]]]:
        """Part, name and the measurement of each row."""
        for name, run in self._kernel_calls().items():
            yield "kernels", name, partial(self._compare_kernels, run)
        yield "passes", "layer-major beside sequential", self._compare_passes
        yield "streaming", f"{LAYERS - 1} of {LAYERS} blocks", self._compare_streamed
        for layout in ("contiguous_format", "channels_last_3d"):
            yield "convolutions", layout, partial(self._convolve, getattr(torch, layout))

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.place.device, dtype=self.place.dtype)

    def _kernel_calls(self) -> dict[str, Callable[[Kernels], Tensor]]:
        draw, trunk, latent = self._random, self.place.config.trunk, self.place.config.segment.shape.latent
        width, heads, head = trunk.width, trunk.heads, trunk.head_dim
        norm, head_norm, wide = nn.LayerNorm(width), nn.LayerNorm(head, eps=1e-6), nn.Linear(width, 4 * width)
        for layer in (norm, head_norm, wide):
            layer.to(self.place.device, self.place.dtype).requires_grad_(False)
        video, text = draw(2, latent.tokens, width), draw(2, trunk.text_tokens, width)
        both, modulation = torch.cat((text, video), dim=1), 0.1 * draw(1, 6, width)
        cos, sin = (draw(both.shape[1], head) for _ in range(2))
        tail, wide_tail = (draw(1, heads, latent.tokens_per_frame, head), draw(1, 8, 4 * width))
        return {
            "adaln_modulate": lambda k: k.adaln_modulate(norm, video, text, modulation),
            "qk_norm_rope": lambda k: k.qk_norm_rope(head_norm, both, heads, cos, sin, tail),
            "gated_residual": lambda k: k.gated_residual(video.clone(), video, modulation[:, 2:3]),
            "linear_concat": lambda k: k.linear_concat(wide, video[:1], wide_tail),
            "linear_gelu": lambda k: k.linear_gelu(wide, video),
        }

    def _compare_kernels(self, run: Callable[[Kernels], Tensor]) -> Row:
        """The fused kernel's distance from torch's operations, its seconds, and GB/s of what it writes and,
        about as much, reads."""
        if reason := why_unsupported(self.place.device, self.place.dtype):
            return {"failed": reason}
        made = run(FUSED)
        distance, moved = relative_distance(made, run(PLAIN)), 2 * made.nbytes
        del made
        row = self.clock.measure(lambda: run(FUSED))
        plain = self.clock.measure(lambda: run(PLAIN))
        rate = moved / row["seconds"] / 1e9 if "seconds" in row else None
        right = {"ok": distance <= MAX_DISTANCE, "distance": distance, "gb_per_s": rate}
        return {**right, **row, "plain_seconds": plain.get("seconds")}

    @torch.inference_mode()
    def _compare_passes(self) -> Row:
        dit, inputs = self._network(self.place.device), Inputs(self.place, 2)
        prepared = inputs.prepare(dit)
        made = {name: GUIDANCE_PASSES[name](dit, *prepared)(inputs.latents, 1) for name in GUIDANCE_PASSES}
        equal = torch.equal(made["layer-major"], made["sequential"])
        return {"ok": equal, "batched_distance": relative_distance(made["batched"], made["sequential"])}

    @torch.inference_mode()
    def _compare_streamed(self) -> Row:
        """A step with streamed weights beside one with resident weights, bit for bit; and the bytes that
        conditions hold beside those of the storages that they keep alive."""
        place, inputs = self.place, Inputs(self.place, 2)

        def step(dit: Hallo3Transformer) -> tuple[Callable[[], Tensor], list[Tensor]]:
            run, segment = inputs.prepare(dit)
            predict = GUIDANCE_PASSES["layer-major"](dit, run, segment)
            return lambda: predict(inputs.latents, 1), list(condition_tensors(run, segment))

        resident, _ = step(self._network(place.device))
        expected, seconds = resident(), self.clock.measure(resident).get("seconds")
        del resident
        self.clock.tidy()
        network = self._network(CPU)
        groups = split_groups(network)
        staying = choose_resident(groups[0], 1)
        stored = store_in_memory(network, groups, resident=staying, pinned=self.clock.cuda)
        with StreamedModule(lambda: stored, place.device) as dit:
            streamed, held = step(dit)
            equal = torch.equal(streamed(), expected)
            row = self.clock.measure(streamed)
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in held}
        views = {each.data_ptr(): each.nbytes for each in held}
        kept, own = sum(storages.values()) / GB, sum(views.values()) / GB
        alive = {"conditions_gb": own, "kept_alive_gb": kept}
        return {"ok": equal and kept <= 1.01 * own, **row, "resident_seconds": seconds, **alive}

    def _network(self, home: torch.device) -> Hallo3Transformer:
        place = self.place
        kernels = choose_kernels("auto", place.device, place.dtype).kernels
        return fill(Hallo3Transformer(place.config, place.layers(kernels, sdpa)), place, home)

    @torch.inference_mode()
    def _convolve(self, layout: torch.memory_format) -> Row:
        """The decoder's widest level at the highest resolution: what one convolution takes beside its input,
        its output included."""
        shape, channels = self.place.config.segment.shape, self.place.config.vae.block_out_channels[0]
        x = self._random(1, channels, 10, shape.height + 2, shape.width + 2)
        weight = 0.02 * self._random(channels, channels, 3, 3, 3)
        x, weight = (each.contiguous(memory_format=layout) for each in (x, weight))
        row = self.clock.measure(lambda: F.conv3d(x, weight))
        output = channels * 8 * math.prod(shape[1:]) * self.place.dtype.itemsize
        return row | {"output_gb": output / GB}


def condition_tensors(run: RunConditions, segment: SegmentConditions) -> Iterable[Tensor]:
    """All that lives as long as a run or a segment."""
    yield from (segment.text, run.rotary.cos, run.rotary.sin, segment.image_latents)
    for sequence in (run.reference, run.face, run.silence, segment.audio):
        for each in sequence:
            yield from each
    for modulation in run.steps:
        yield modulation.head
        for block in modulation.blocks:
            yield from block


def measure(options: Namespace) -> Iterator[Result]:
    """The result each time that it has grown."""
    begun, device = time.monotonic(), get_device(options.device)
    place = choose_place(device, LAYERS)
    until = begun + (options.seconds or math.inf)
    smoke = Smoke(place=place, clock=Clock(device=device, count=3, warm=1, until=until))
    facts: dict[str, Any] = describe_machine(device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        facts["outside_torch_gb"] = (total - free - torch.cuda.memory_reserved(device)) / GB
        facts["cudnn"] = torch.backends.cudnn.version()
    result: Result = {"machine": facts, "sizes": place.describe(), **{part: {} for part in PARTS}}
    for part, name, run in smoke.rows():
        row: Row = attempt(run) if smoke.clock.left() > 0 else {"left_out": "there is no time left"}
        result[part][name] = row
        show_note(begun, f"{part}, {name}: {row.get('failed') or row}")
        smoke.clock.tidy()
        yield result


def show(result: Result, _: Namespace) -> None:
    print("\n\n".join(format_table(result[part], part) for part in PARTS if result[part]))
    rows = [each for part in PARTS for each in result[part].items()]
    wrong = [name for name, row in rows if row.get("ok") is False or "failed" in row]
    print(f"\nwrong: {', '.join(wrong) or 'nothing'}")


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--seconds", type=float, metavar="N", help="leave out what begins after N seconds")


SMOKE = Scenario(measure=measure, add_options=add_options, show=show, keep=True)
