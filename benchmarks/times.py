"""Times on this device, ours beside the original's in one run.

On CUDA the transformer and the VAE have the released model's size and random weights; elsewhere they are
small, and their times say nothing about a GPU. Every result has its device and sizes. "original" is
``networks.OriginalStep`` and diffusers' own decoder, called as the original calls it.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.counts import count_flop
from benchmarks.networks import Inputs, Networks, Place, build_random_vae, choose_place, decode_as_original
from benchmarks.report import Panel, Result, Scenario, describe_machine, draw_bars, format_table, get_device
from benchmarks.streamed import Clock, Row, measure_limit
from hallo3.attention_backend import AUTO, BACKENDS, get_backend, list_runnable
from hallo3.config import Hallo3Config
from hallo3.model.guidance import GUIDANCE_PASSES, Predict
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.kernels.select import why_unsupported
from hallo3.model.layers import Attention
from hallo3.pipeline import collect_frames
from hallo3.sampling.samplers import guided_denoiser, sample_dpmpp_2m_sde
from hallo3.sampling.schedule import make_schedule
from hallo3.vae.autoencoder import VideoVAE
from hallo3.vae.causal_conv import DecodePlan

PARTS = ("rates", "attention", "step", "decode", "segment")
TORCH_CHOICE, SAME = "original, torch's choice", "original, same attention"
DECODES = {
    "ours": DecodePlan(),
    "ours, 8 strips": DecodePlan(strips=8),
    "ours, 8 strips, caches in the host": DecodePlan(strips=8, caches="host"),
}
GUIDANCE = 3.5
Decode = Callable[[Tensor], object]


class Step(NamedTuple):
    predict: Predict
    latents: Tensor
    original: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """``steps`` of a whole segment; ``attention`` is a backend's name or "" for the fastest exact one;
    ``limits`` of GPU memory in GB."""

    place: Place
    clock: Clock
    steps: int
    attention: str = ""
    parts: Sequence[str] = PARTS
    limits: Sequence[float] = ()

    def run(self) -> Result:
        result: Result = {"sizes": self.place.describe()}
        clock, place, gpu = self.clock, self.place, self.clock.cuda
        if "rates" in self.parts:
            rate = measure_products(clock, place.dtype, 8192 if gpu else 1024)
            result["rates"] = {"matrix product": rate, **measure_copies(clock, 1 << (30 if gpu else 26))}
        if "attention" in self.parts:
            result["attention"] = measure_attention(clock, place.config, place.dtype)
        name = self.attention or fastest_exact(result.get("attention", {}))
        attention = get_backend(name, place.device, place.dtype, place.config.trunk.head_dim)
        result["sizes"]["attention"] = attention.title
        if reason := why_unsupported(place.device, place.dtype):
            result["sizes"]["fused"] = f"cannot run: {reason}"
        if "step" in self.parts or "segment" in self.parts:
            steps = dict(_make_steps(Networks(Inputs(place, self.steps)), attention))
            if "step" in self.parts:
                flop = count_flop(place.config)
                result["step"] = {
                    name: clock.measure(
                        lambda one=one: one.predict(one.latents, 0),
                        flop["baseline" if one.original else "step"],
                    )
                    for name, one in steps.items()
                }
            if "segment" in self.parts:
                result["segment"] = self._measure_segments(steps, result.get("step", {}))
            del steps
            clock.tidy()
        if "decode" in self.parts:
            latents = Inputs(place, 2).latents
            result["decode"] = {
                name: clock.measure(lambda one=decode: one(latents))
                for name, decode in _make_decodes(build_random_vae(place)).items()
            }
        rate = result.get("rates", {}).get("matrix product", {}).get("tflops")
        for row in (*result.get("step", {}).values(), *result.get("attention", {}).values()):
            if rate and "tflops" in row:
                row["share"] = row["tflops"] / rate
        if self.limits:
            resident = [row["seconds"] for row in our_rows(result, "step").values()]
            fastest = min(resident, default=None)
            result["ceilings"] = {
                f"{limit:g} GB": measure_limit(place, clock, attention, limit, fastest)
                for limit in self.limits
            }
        return result

    def _measure_segments(self, steps: Mapping[str, Step], measured: Mapping[str, Row]) -> dict[str, Row]:
        """A segment of ``steps`` with its decode, once: the original's in two ways, and our fastest step."""
        decodes = _make_decodes(build_random_vae(self.place))
        ours = our_rows({"step": measured}, "step")
        fastest = min(ours, key=lambda name: ours[name]["seconds"], default="ours, fused, batched")
        once = Clock(device=self.clock.device, count=1, warm=0)
        rows: dict[str, Row] = {}
        for name in (TORCH_CHOICE, SAME, fastest):
            decode = decodes["original" if name.startswith("original") else "ours"]
            row = once.measure(lambda one=name, end=decode: end(self._sample(steps[one].predict)))
            rows[f"{name}, {self.steps} steps"] = row
        return rows

    def _sample(self, predict: Predict) -> Tensor:
        place = self.place
        shape = (1, place.config.trunk.latent_channels, *place.config.segment.shape.latent)
        generator = torch.Generator(place.device).manual_seed(2)

        def noise(_: int) -> Tensor:
            return torch.randn(shape, device=place.device, generator=generator)

        denoise = guided_denoiser(predict, GUIDANCE)
        return sample_dpmpp_2m_sde(denoise, noise(0), make_schedule(self.steps), noise, lambda _: None)


def _make_steps(networks: Networks, attention: Attention) -> Iterator[tuple[str, Step]]:
    latents, place = networks.inputs.latents, networks.place
    yield TORCH_CHOICE, Step(networks.original(PLAIN, AUTO), latents, True)
    yield SAME, Step(networks.original(PLAIN, attention), latents, True)
    prepared = networks.inputs.prepare(networks.dit(PLAIN, attention))
    for kernels in (PLAIN,) if why_unsupported(place.device, place.dtype) else (PLAIN, FUSED):
        dit = networks.dit(kernels, attention)
        for passes, branches in GUIDANCE_PASSES.items():
            yield f"ours, {kernels.name}, {passes}", Step(branches(dit, *prepared), latents, False)


def _make_decodes(vae: VideoVAE) -> dict[str, Decode]:
    def decode(plan: DecodePlan) -> Decode:
        return lambda latents: collect_frames(vae.decode(latents, plan=plan), 1 << 30)

    decodes: dict[str, Decode] = {"original": lambda latents: decode_as_original(vae, latents)}
    return decodes | {name: decode(plan) for name, plan in DECODES.items()}


def measure_products(clock: Clock, dtype: torch.dtype, side: int) -> Row:
    """A product of two random matrices; shares of other rows are of its ``tflops``."""
    one, other = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    size = f"{side}^3 {str(dtype).removeprefix('torch.')}"
    return {"size": size} | clock.measure(lambda: one @ other, 2 * side**3)


def measure_copies(clock: Clock, size: int) -> dict[str, Row]:
    """GB/s of a copy on the device, which reads and writes, and from pinned and pageable memory to it."""
    target = torch.empty(size, dtype=torch.uint8, device=clock.device)
    source = torch.randint(255, (size,), dtype=torch.uint8, device=clock.device)
    sources = {"copy on the device": (source, 2 * size)}
    if clock.cuda:
        for name, pinned in (("copy to it, locked", True), ("copy to it, pageable", False)):
            sources[name] = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).fill_(1), size
    rows: dict[str, Row] = {}
    for name, (tensor, moved) in sources.items():
        row = clock.measure(lambda one=tensor: target.copy_(one, non_blocking=True))
        rate = {"gb_per_s": moved / row["seconds"] / 1e9} if "seconds" in row else {}
        rows[name] = {"size": f"{size / 1e9:.3g} GB"} | row | rate
    return rows


def measure_attention(clock: Clock, config: Hallo3Config, dtype: torch.dtype) -> dict[str, Row]:
    """Every backend that runs here, in the shape of a step with both branches; on CUDA without "math", which
    would store all scores."""
    trunk, latent = config.trunk, config.segment.shape.latent
    queries = trunk.text_tokens + latent.frames * latent.tokens_per_frame
    keys = queries + latent.tokens_per_frame
    q, k, v = (
        torch.randn(2, trunk.heads, count, trunk.head_dim, device=clock.device, dtype=dtype)
        for count in (queries, keys, keys)
    )
    flop = 4 * 2 * trunk.heads * trunk.head_dim * queries * keys
    rows: dict[str, Row] = {}
    for name in list_runnable(clock.device, dtype, trunk.head_dim):
        backend = BACKENDS[name]
        if not (clock.cuda and name == "math"):
            row = clock.measure(lambda attend=backend: attend(q, k, v), flop)
            rows[name] = {"exact": backend.exact, "size": f"{queries} x {keys}"} | row
    return rows


def fastest_exact(rows: Mapping[str, Row]) -> str:
    """The fastest exact backend; torch's own choice if none was measured."""
    times = {name: row["seconds"] for name, row in rows.items() if row["exact"] and "seconds" in row}
    return min(times, key=lambda name: times[name], default="auto")


def our_rows(result: Mapping[str, Any], part: str) -> dict[str, Row]:
    rows = result.get(part, {}).items()
    return {name: row for name, row in rows if name.startswith("ours") and "seconds" in row}


SEGMENT_STEPS = 50
"""As the original samples."""
SEGMENTS_RATIO = 4 / 3
"""Of 5 s of speech: the original samples a fourth segment and throws it away."""


class Goal(NamedTuple):
    """``card`` is the GPU that it is for; empty for any."""

    name: str
    what: str
    must: float
    target: float
    more_is_better: bool = True
    card: str = "H200"


GOALS = (
    Goal("G3", "segment, original over ours, same attention", 1.15, 1.25),
    Goal("G4", "segment, original over ours, as it ships", 1.2, 1.5),
    Goal("G5", "5 s of speech, original over ours", 1.5, 1.9),
    Goal("G6", "share of the measured matrix rate", 0.55, 0.62),
    Goal("G7", "decode of a segment, seconds", 5.0, 2.5, False),
    Goal("G10", "a step with streamed weights over one with resident ones", 1.15, 1.05, False, ""),
    Goal("G11", "GB in which a step streams nothing", 24, 16, False, ""),
)


def reckon(result: Result) -> dict[str, float | None]:
    """Figures of goals: gains are of a segment's seconds, from one step and one decode; G10 is the worst of
    the limits under which more than half of the blocks stream, G11 the smallest under which none does."""
    rows = {
        (part, name): row["seconds"]
        for part in ("step", "decode")
        for name, row in result.get(part, {}).items()
        if "seconds" in row
    }
    step = min(our_rows(result, "step").values(), key=lambda row: row["seconds"], default={})
    decode = min((row["seconds"] for row in our_rows(result, "decode").values()), default=None)
    gains: dict[str, float] = {}
    for name in (SAME, TORCH_CHOICE):
        if step and decode and {("step", name), ("decode", "original")} <= rows.keys():
            theirs = SEGMENT_STEPS * rows["step", name] + rows["decode", "original"]
            gains[name] = theirs / (SEGMENT_STEPS * step["seconds"] + decode)
    limits = {name: row for name, row in result.get("ceilings", {}).items() if "seconds" in row}
    slowdowns = [
        row["slowdown"] for row in limits.values() if "slowdown" in row and row["streamed_share"] > 0.5
    ]
    free = [float(name.split()[0]) for name, row in limits.items() if row["streamed_gb"] < 0.01]
    return {
        "G3": gains.get(SAME),
        "G4": gains.get(TORCH_CHOICE),
        "G5": gains[TORCH_CHOICE] * SEGMENTS_RATIO if TORCH_CHOICE in gains else None,
        "G6": step.get("share"),
        "G7": decode,
        "G10": max(slowdowns, default=None),
        "G11": min(free, default=None),
    }


def judge(goal: Goal, result: Result) -> Row:
    """The goal's figure and verdict; a figure is claimed only for the released size on a GPU."""
    machine = result["machine"]
    figure = reckon(result)[goal.name] if result["sizes"]["full_size"] and "cuda" in machine else None
    if figure is None:
        verdict = "not measured"
    elif goal.card and goal.card not in machine["device"].split():
        verdict = f"not measured on an {goal.card}"
    else:
        sign = 1 if goal.more_is_better else -1
        must, target = (sign * figure >= sign * limit for limit in (goal.must, goal.target))
        verdict = "reached" if target else "must reached, target not reached" if must else "not reached"
    return {"what": goal.what, "must": goal.must, "target": goal.target, "figure": figure, "verdict": verdict}


def measure(options: Namespace) -> Result:
    device = get_device(options.device)
    gpu = device.type == "cuda"
    if options.ceiling and not gpu:
        raise SystemExit("--ceiling needs a GPU (`ceilings` counts without one)")
    bench = Bench(
        place=choose_place(device, options.layers),
        clock=Clock(device=device, count=options.count or (5 if gpu else 3), warm=2 if gpu else 1),
        steps=options.steps or (8 if gpu else 2),
        attention=options.attention,
        parts=options.only,
        limits=options.ceiling,
    )
    result = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **bench.run()}
    judged = result | {"machine": describe_machine(device)}
    return result | {"goals": {goal.name: judge(goal, judged) for goal in GOALS}}


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
    about = "on a GPU: a step with this many GB"
    add("--ceiling", type=float, nargs="+", default=(), metavar="GB", help=about)


TIMES = Scenario(
    measure=measure,
    add_options=add_options,
    show=lambda result, _: print(format_result(result)),
    draw=draw_times,
    keep=True,
)
