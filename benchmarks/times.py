"""Times on this device, ours beside the original's in one run.

On CUDA the transformer and the VAE have the released model's size and random weights; elsewhere they are
small, and their times say nothing about a GPU. Every result has its device and sizes. "original" is
``networks.OriginalStep`` and diffusers' own decoder, called as the original calls it.
"""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.counts import count_flop
from benchmarks.goals import GOALS, SAME, TORCH_CHOICE, judge, our_rows
from benchmarks.networks import (
    Inputs,
    Networks,
    Place,
    as_diffusers,
    build_random_vae,
    choose_place,
    decode_as_original,
    fill,
)
from benchmarks.rates import PRODUCT, attention_rows, copy_rows, fastest, measure_products
from benchmarks.report import (
    Panel,
    Result,
    Scenario,
    describe_machine,
    draw_bars,
    format_table,
    get_device,
)
from benchmarks.streamed import RESIDENT, Clock, Row, measure_limit, measure_resident
from hallo3.attention_backend import AUTO, get_backend
from hallo3.config import HALLO3, Hallo3Config
from hallo3.errors import hide_paths
from hallo3.model.guidance import GUIDANCE_PASSES, Predict, predict_branches
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.kernels.select import choose_kernels, why_unsupported
from hallo3.model.layers import Attention
from hallo3.model.transformer import Hallo3Transformer
from hallo3.pipeline import collect_frames
from hallo3.progress import no_progress
from hallo3.quantization import PRECISIONS
from hallo3.sampling.samplers import Denoise, guided_denoiser, sample_dpmpp_2m_sde
from hallo3.sampling.schedule import make_schedule
from hallo3.sampling.step_cache import CHECK_INTERVAL, MIN_COMPUTED_STEPS, StepCache
from hallo3.settings import Settings, get_approximations, settings_for
from hallo3.units import format_duration
from hallo3.vae.causal_conv import DecodePlan

PARTS = ("rates", "attention", "step", "decode", "segment", "fast")
DECODES = {
    "ours": DecodePlan(),
    "ours, 8 strips": DecodePlan(strips=8),
    "ours, 8 strips, caches in the host": DecodePlan(strips=8, caches="host"),
}
GUIDANCE = 3.5
FAST = ("steps-30", "guidance-middle", "step-cache")
GUESSED_TFLOPS = {"cuda": 300.0, "cpu": 0.05}
"""For estimates, if no product was measured."""
EFFICIENCY = {"attention": 0.4, "step": 0.4, "decode": 0.2}
"""Share of the product's rate, for estimates of rows that no other row of their part precedes."""
DECODE_FLOP = 3.15e14
"""Of a segment at full size."""
DRAW_SECONDS = {"cuda": 3e-10, "cpu": 2e-8}
"""To draw a random number of a weight."""
LIMIT_SECONDS = 40.0
"""To make the weights of a limit at full size in RAM, and to lock them."""
Decode = Callable[[Tensor], object]


class Step(NamedTuple):
    predict: Predict
    latents: Tensor
    original: bool


class Task(NamedTuple):
    """A row to measure. All of it takes about ``seconds``, of which making its networks takes ``setup``."""

    part: str
    name: str
    measure: Callable[[], Row]
    seconds: float
    setup: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """``steps`` of a whole segment; ``attention`` is a backend's name or "" for the fastest exact one;
    ``limits`` of GPU memory in GB, measured with the layers of ``whole``; ``sustained`` seconds of matrix
    products. ``fast`` is the place of the segment with ``approximations``, whose cache skips ``reused`` of
    the steps."""

    place: Place
    whole: Place
    fast: Place
    clock: Clock
    steps: int
    attention: str = ""
    parts: Sequence[str] = PARTS
    limits: Sequence[float] = ()
    sustained: float = 3.0
    approximations: Sequence[str] = FAST
    reused: float = 0.4
    note: Callable[[str], object] = no_progress

    def run(self) -> Iterator[Result]:
        """The result, each time that it has grown by a row. A row that fails, or that does not fit the
        clock's limit any more, is reported as such and stops no other."""
        result: Result = {"sizes": self.place.describe(), **{part: {} for part in self.parts}}
        result["sizes"]["whole_when_streamed"] = self.whole.full_size
        if self.place.config != self.whole.config:
            result["sizes"]["note"] = "not all layers fit: limits are measured with all of them, streamed"
        corrections: dict[str, float] = {}
        yield result
        for task in self._tasks(result):
            correction = corrections.get(task.part, 1.0)
            seconds, left = task.setup + correction * task.seconds, self.clock.left()
            self.note(f"{task.part}, {task.name}: about {format_duration(seconds)}")
            if seconds > left:
                row: Row = {
                    "left_out": f"takes about {seconds:.0f} s, of which {max(0.0, left):.0f} are left"
                }
            else:
                begun = time.monotonic()
                row = attempt(task.measure)
                if "seconds" in row:
                    took = time.monotonic() - begun - task.setup
                    corrections[task.part] = max(0.1, took / task.seconds)
            rate = result.get("rates", {}).get(PRODUCT, {}).get("tflops")
            if rate and "tflops" in row:
                row["share"] = row["tflops"] / rate
            result.setdefault(task.part, {})[task.name] = row
            self.note(f"{task.part}, {task.name}: {describe_row(row)}")
            del task  # and its networks, before those of the next part are made
            yield result

    def _tasks(self, result: Result) -> Iterator[Task]:
        """In the order of ``PARTS``, then the limits; what a part needs is made by its first row."""
        clock, place, parts = self.clock, self.place, self.parts
        if "rates" in parts:
            yield from self._rate_tasks()
        rate = result.get("rates", {}).get(PRODUCT, {}).get("tflops") or GUESSED_TFLOPS[clock.device.type]

        def seconds(part: str, flop: float) -> float:
            return (clock.warm + clock.count) * flop / (EFFICIENCY[part] * rate * 1e12)

        if "attention" in parts:
            rows = attention_rows(clock, place.config, place.dtype)
            for name, (measure_row, flop) in rows.items():
                yield Task("attention", name, measure_row, seconds("attention", flop))
            del rows
        name = self.attention or fastest(result.get("attention", {}))
        attention = get_backend(name, place.device, place.dtype, place.config.trunk.head_dim)
        result["sizes"]["attention"] = attention.title
        if reason := why_unsupported(place.device, place.dtype):
            result["sizes"]["fused"] = f"cannot run: {reason}"
        flop = count_flop(place.config) if {"step", "segment", "fast"} & {*parts} or self.limits else {}
        decode_flop = DECODE_FLOP * decode_share(place)
        setup = DRAW_SECONDS[clock.device.type] * place.parameters
        if "step" in parts or "segment" in parts:
            steps = cache(lambda: dict(_make_steps(Networks(Inputs(place, self.steps)), attention)))
            for name in step_names(place) if "step" in parts else ():
                one = flop["baseline" if name.startswith("original") else "step"]

                def measure_step(name: str = name, flop: int = one) -> Row:
                    step = steps()[name]
                    return clock.measure(lambda: step.predict(step.latents, 0), flop)

                yield Task("step", name, measure_step, seconds("step", one), setup)
                setup = 0.0
            if "segment" in parts:
                decodes = cache(lambda: _make_decodes(place))
                ours = our_rows(result, "step")
                best = min(ours, key=lambda name: ours[name]["seconds"], default="ours, plain, batched")
                for name in (TORCH_CHOICE, SAME, best):

                    def measure_segment(name: str = name) -> Row:
                        decode = decodes()["original" if name.startswith("original") else "ours"]
                        predict = steps()[name].predict
                        return replace(clock, count=1, warm=0).measure(lambda: decode(self._sample(predict)))

                    once = self.steps * seconds("step", flop["step"]) + seconds("decode", decode_flop)
                    once /= clock.warm + clock.count
                    yield Task("segment", f"{name}, {self.steps} steps", measure_segment, once, setup)
                    setup = 0.0
                del decodes
            del steps
            clock.tidy()
        if "decode" in parts:
            makers = cache(lambda: (Inputs(place, 2).latents, _make_decodes(place)))
            for name in ("original", *DECODES):

                def measure_decode(name: str = name) -> Row:
                    latents, decodes = makers()
                    return clock.measure(lambda: decodes[name](latents))

                yield Task("decode", name, measure_decode, seconds("decode", decode_flop))
            del makers
        if "fast" in parts:
            yield self._fast_task(result, seconds("step", flop["step"]), seconds("decode", decode_flop))
        if self.limits:
            yield from self._limit_tasks(result, attention, seconds("step", flop["step"]))

    def _rate_tasks(self) -> Iterator[Task]:
        clock, dtype, gpu = self.clock, self.place.dtype, self.clock.cuda
        side, size = 8192 if gpu else 1024, 1 << (30 if gpu else 26)
        yield Task("rates", PRODUCT, lambda: measure_products(clock, dtype, side), 1.0)
        name = f"{PRODUCT}, {self.sustained:g} s long"
        long = partial(measure_products, clock, dtype, side, self.sustained)
        yield Task("rates", name, long, self.sustained)
        for name, measure_row in copy_rows(clock, size).items():
            yield Task("rates", name, measure_row, 1.0)

    def _limit_tasks(self, result: Result, attention: Attention, step: float) -> Iterator[Task]:
        """First a step with all weights on the device, if none was measured with all layers."""
        clock, whole = self.clock, self.whole
        setup, ours = LIMIT_SECONDS * whole.parameters / 1e10, our_rows(result, "step")
        step *= whole.config.trunk.layers / self.place.config.trunk.layers
        if self.place.config != whole.config or not ours:
            measure_row = partial(measure_resident, whole, clock, attention)
            yield Task("ceilings", RESIDENT, measure_row, step, setup)
            ours = {name: row for name, row in result["ceilings"].items() if "seconds" in row}
        least = min((row["seconds"] for row in ours.values()), default=None)
        for limit in self.limits:
            measure_row = partial(measure_limit, whole, clock, attention, limit, least)
            yield Task("ceilings", f"{limit:g} GB", measure_row, 2 * step, setup)

    def _fast_task(self, result: Result, step: float, decode: float) -> Task:
        """A segment with approximations, once: the released model's steps and guidance. What a cache would
        skip depends on weights, which are random here, so ``reused`` of the steps are skipped by force."""
        place, settings = self.fast, settings_for(Hallo3Config().defaults)
        for each in get_approximations(self.approximations):
            settings = each.apply(settings)
        name = self.attention or fastest(result.get("attention", {}), exact=False)
        attention = get_backend(name, place.device, place.dtype, place.config.trunk.head_dim)
        reused = self.reused if settings.step_cache else 0.0

        def measure_fast() -> Row:
            inputs, kernels = Inputs(place, settings.steps), choose_kernels("auto", place.device, place.dtype)
            dit = fill(Hallo3Transformer(place.config, place.layers(kernels.kernels, attention)), place)
            vae, prepared = build_random_vae(place), inputs.prepare(dit)
            guidance = settings.guidance()
            predict = predict_branches(dit, *prepared, [each.branches for each in guidance], "batched")
            denoise = guided_denoiser(predict, [each.strengths for each in guidance])
            cache = skip_by_force(settings, denoise, reused)

            def render() -> object:
                latents = self._sample(predict, cache or denoise, settings.steps)
                return collect_frames(vae.decode(latents), 1 << 30)

            row = replace(self.clock, count=1, warm=0).measure(render)
            counts = {"steps": settings.steps, "reused": cache.report.reused if cache else 0}
            return {"type": place.precision.name, "attention": attention.title, **counts} | row

        each = self.clock.warm + self.clock.count
        seconds = (settings.evaluations * (1 - reused) / 2 * step + decode) / each
        setup = DRAW_SECONDS[self.clock.device.type] * place.parameters
        return Task("fast", ", ".join(self.approximations) or "nothing", measure_fast, seconds, setup)

    def _sample(self, predict: Predict, denoise: Denoise | None = None, steps: int = 0) -> Tensor:
        place = self.place
        shape = (1, place.config.trunk.latent_channels, *place.config.segment.shape.latent)
        generator = torch.Generator(place.device).manual_seed(2)

        def noise(_: int) -> Tensor:
            return torch.randn(shape, device=place.device, generator=generator)

        denoise, schedule = denoise or guided_denoiser(predict, GUIDANCE), make_schedule(steps or self.steps)
        return sample_dpmpp_2m_sde(denoise, noise(0), schedule, noise, no_progress)


def skip_by_force(settings: Settings, denoise: Denoise, share: float) -> StepCache | None:
    """A step cache that skips this share of the steps, evenly, as far as its rules allow."""
    if not share:
        return None
    fixed = {*range(MIN_COMPUTED_STEPS), settings.steps - 1, settings.guided.start, settings.guided.stop}
    free = [step for step in range(settings.steps) if step not in fixed]
    wanted = min(len(free), round(share * settings.steps * CHECK_INTERVAL / (CHECK_INTERVAL - 1)))
    skipped = {free[number * len(free) // wanted] for number in range(wanted)}
    return StepCache(denoise, settings.steps, math.inf, math.inf, at_least={*range(settings.steps)} - skipped)


def attempt(measure_row: Callable[[], Row]) -> Row:
    """The row, or why there is none."""
    try:
        return measure_row()
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        return {"failed": hide_paths(f"{type(error).__name__}: {text}"[:300])}


def describe_row(row: Row) -> str:
    if "seconds" not in row:
        return str(row.get("failed") or row.get("left_out"))
    shown = {"tflops": "TFLOP/s", "gb_per_s": "GB/s"}
    rates = [f"{row[name]:.4g} {unit}" for name, unit in shown.items() if name in row]
    return ", ".join((f"{row['seconds']:.4g} s", *rates))


def decode_share(place: Place) -> float:
    """Of the released model's decode, in FLOP."""
    mine, full = place.config, HALLO3
    pixels = math.prod(mine.segment.shape) / math.prod(full.segment.shape)
    return pixels * (mine.vae.block_out_channels[0] / full.vae.block_out_channels[0]) ** 2


def step_names(place: Place) -> tuple[str, ...]:
    kernels = (PLAIN,) if why_unsupported(place.device, place.dtype) else (PLAIN, FUSED)
    ours = (f"ours, {each.name}, {passes}" for each in kernels for passes in GUIDANCE_PASSES)
    return TORCH_CHOICE, SAME, *ours


def _make_steps(networks: Networks, attention: Attention) -> Iterator[tuple[str, Step]]:
    latents, place = networks.inputs.latents, networks.place
    yield TORCH_CHOICE, Step(networks.original(PLAIN, AUTO), latents, True)
    yield SAME, Step(networks.original(PLAIN, attention), latents, True)
    prepared = networks.inputs.prepare(networks.dit(PLAIN, attention))
    for kernels in (PLAIN,) if why_unsupported(place.device, place.dtype) else (PLAIN, FUSED):
        dit = networks.dit(kernels, attention)
        for passes, branches in GUIDANCE_PASSES.items():
            yield f"ours, {kernels.name}, {passes}", Step(branches(dit, *prepared), latents, False)


def _make_decodes(place: Place) -> dict[str, Decode]:
    vae = build_random_vae(place)
    original = as_diffusers(vae, place.config.vae)

    def decode(plan: DecodePlan) -> Decode:
        return lambda latents: collect_frames(vae.decode(latents, plan=plan), 1 << 30)

    decodes: dict[str, Decode] = {"original": lambda latents: decode_as_original(original, latents)}
    return decodes | {name: decode(plan) for name, plan in DECODES.items()}


def measure(options: Namespace) -> Iterator[Result]:
    """The result each time that it has grown."""
    begun, device = time.monotonic(), get_device(options.device)
    gpu = device.type == "cuda"
    if options.ceiling and not gpu:
        raise SystemExit("--ceiling needs a GPU (`ceilings` counts without one)")
    clock = Clock(
        device=device,
        count=options.count or (5 if gpu else 3),
        warm=2 if gpu else 1,
        until=begun + (options.seconds or math.inf),
    )
    bench = Bench(
        place=choose_place(device, options.layers),
        whole=choose_place(device, options.layers or sys.maxsize, dtype=options.dtype),
        fast=choose_place(device, options.layers, dtype=options.dtype),
        approximations=get_names(options.approximate),
        reused=options.reused,
        clock=clock,
        steps=options.steps or (8 if gpu else 2),
        attention=options.attention,
        parts=options.only,
        limits=options.ceiling,
        sustained=3.0 if gpu else 0.3,
        note=partial(show_note, begun),
    )
    machine = describe_machine(device)
    for result in bench.run():
        judged = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine, **result}
        yield judged | {"goals": {goal.name: judge(goal, judged) for goal in GOALS}}


def get_names(words: Sequence[str]) -> tuple[str, ...]:
    """Of approximations, in their order. Raises ``InputError``."""
    return tuple(each.name for each in get_approximations(words))


def show_note(begun: float, text: str) -> None:
    print(f"{time.monotonic() - begun:6.1f} s  {text}", file=sys.stderr, flush=True)


def format_result(result: Result) -> str:
    sizes = ", ".join(f"{name} {value}" for name, value in result["sizes"].items())
    lines = [f"on {result['machine']['device']}: {sizes}"]
    for part in (*PARTS, "ceilings", "goals"):
        if part in result:
            rows = {
                name: {key: value for key, value in row.items() if not isinstance(value, dict)}
                for name, row in result[part].items()
            }
            lines += ["", format_table(rows, part)]
    return "\n".join(lines)


def draw_times(result: Result) -> Tensor:
    """Seconds of steps and decodes."""
    sizes, panels = result["sizes"], list[Panel]()
    for part, title in (("step", "A step, both branches"), ("decode", "Decode of a segment")):
        rows = {name: row["seconds"] for name, row in result.get(part, {}).items() if "seconds" in row}
        if rows:
            panels.append(Panel(title, "seconds, the median", rows, lambda seconds: f"{seconds:.3g} s"))
    about = ", ".join((sizes["config"], f"{sizes['layers']} layers", sizes["segment"], sizes["type"]))
    return draw_bars(f"Times on {result['machine']['device']}", f"{about}, random weights", panels)


def add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add("--layers", type=int, metavar="N", help="number of layers (default: all, or as many as fit)")
    add("--count", type=int, metavar="N", help="runs of each measurement (default: 5 on a GPU, else 3)")
    add("--steps", type=int, metavar="N", help="of the whole segments (default: 8 on a GPU, else 2)")
    about = "of ours and of the second original (default: the fastest exact one)"
    add("--attention", default="", metavar="NAME", help=about)
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    about = "of ours in the fast part and under --ceiling (default: bf16 on a GPU, else fp32)"
    add("--dtype", choices=tuple(PRECISIONS), metavar="TYPE", help=about)
    about = f"of the fast part (default: {' '.join(FAST)})"
    add("--approximate", nargs="*", default=FAST, metavar="NAME", help=about)
    add("--reused", type=float, default=0.4, metavar="SHARE", help="of steps that its cache skips (0.4)")
    about = "leave out what takes longer than this many seconds, all together"
    add("--seconds", type=float, metavar="N", help=about)
    about = "on a GPU: a step with this many GB"
    add("--ceiling", type=float, nargs="+", default=(), metavar="GB", help=about)


TIMES = Scenario(
    measure=measure,
    add_options=add_options,
    show=lambda result, _: print(format_result(result)),
    draw=draw_times,
    keep=True,
)
