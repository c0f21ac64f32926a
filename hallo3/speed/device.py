"""How fast a device is, measured in about a minute: products, attention, copies, and segments of models;
plans of runs read the speeds of models, which are kept."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import torch

from ..attention_backend import BACKENDS, list_runnable
from ..config import BUILT_IN, HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS, Hallo3Config
from ..errors import InputError, describe_error, hide_paths, is_out_of_memory
from ..jobs.estimate import ModelSpeed, format_range, save_speed, speed_key
from ..model.kernels.eager import PLAIN, Kernels
from ..model.kernels.select import AUTO, choose_kernels
from ..offload.budget import plan_cpu_memory, plan_memory
from ..offload.estimate import DEVICE, MemoryRequirements
from ..offload.sizes import ModelSizes, measure_sizes
from ..offload.system_memory import available_bytes, free_bytes, ram_bytes
from ..progress import OpenProgress, ProgressCallback, no_display
from ..quantization import PRECISIONS, Precision, computes_bf16, device_name
from ..settings import settings_for
from ..units import format_bytes, format_duration
from .model import EFFICIENCY, ModelMeasurement, Timing, draw_random, is_small, time_in_turn, wait

MODELS = (BUILT_IN, HALLO3)
SECONDS = {"products": 4, "attention": 6, "copies": 3, BUILT_IN.name: 12, HALLO3.name: 20}
"""That the parts may take."""
SUSTAINED_SECONDS = 2.0


class _Meter:
    """Shows how much of its time a part has used, in milliseconds; ``stopped`` once showing has raised."""

    def __init__(self, show: ProgressCallback, seconds: float) -> None:
        self._show, self._limit = show, round(1000 * seconds)
        self._begun, self._shown, self.stopped = time.perf_counter(), 0, False

    def __call__(self, _: int = 0) -> None:
        self._advance(round(1000 * (time.perf_counter() - self._begun)))

    def finish(self) -> None:
        self._advance(self._limit)

    def _advance(self, now: int) -> None:
        now, self.stopped = min(now, self._limit), True
        self._show(now - self._shown)
        self._shown, self.stopped = now, False


@dataclass(kw_only=True)
class DeviceSpeed:
    """What was measured: ``lines`` of text by part, and ``speeds`` of ``models`` by key; products and
    attention are those of the last model. ``seconds`` limit the parts; ``rate`` and ``attention_rate`` are
    FLOP per second."""

    device: torch.device
    seconds: Mapping[str, float] = field(default_factory=lambda: SECONDS)
    models: tuple[Hallo3Config, ...] = field(default_factory=lambda: MODELS)
    lines: dict[str, str] = field(default_factory=dict[str, str])
    speeds: dict[str, ModelSpeed] = field(default_factory=dict[str, ModelSpeed])
    rate: float = 0.0
    attention_rate: float = 0.0

    def measure(self, open_progress: OpenProgress = no_display) -> None:
        """Everything. What is measured is kept at once, and a part that fails stops no other."""
        parts: dict[str, Callable[[float, ProgressCallback], str]] = {
            "products": self._measure_products,
            "attention": self._measure_attention,
            "copies": self._measure_copies,
            **{config.name: partial(self._measure_model, config) for config in self.models},
        }
        with open_progress("measuring", sum(round(1000 * self.seconds[name]) for name in parts)) as show:
            for name, part in parts.items():
                meter = _Meter(show, self.seconds[name])
                try:
                    with torch.inference_mode():
                        self.lines[name] = part(self.seconds[name], meter)
                except Exception as error:
                    if meter.stopped:
                        raise
                    text = "out of memory" if is_out_of_memory(error) else hide_paths(describe_error(error))
                    self.lines[name] = f"not measured: {text}"
                meter.finish()
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def text(self) -> str:
        """For an issue: it names no file, folder, user or computer."""
        versions = f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"
        width = max(map(len, (*SECONDS, *self.lines)))
        lines = [f"{name:{width}}  {line}" for name, line in self.lines.items()]
        return "\n".join((f"{device_name(self.device)}; {versions}", *lines))

    def _measure_products(self, seconds: float, progress: ProgressCallback) -> str:
        precision = self._precision(self.models[-1])
        side = 8192 if self.device.type == "cuda" else 1024
        one, other = (draw_random(self.device, precision, side, side) for _ in range(2))
        burst = self._time({"product": lambda: one @ other}, seconds / 4, progress)["product"].seconds
        begun, count, took = time.perf_counter(), 0, 0.0
        while took < min(SUSTAINED_SECONDS, seconds / 2):
            for _ in range(max(1, round(0.1 / burst))):
                _ = one @ other
                count += 1
            wait(self.device)
            took = time.perf_counter() - begun
            progress(0)
        self.rate = 2 * side**3 * count / took
        size = f"{precision.name} {side}^3"
        return f"{_rate(2 * side**3 / burst)} ({size}), {_rate(self.rate)} for {took:.0f} s"

    def _measure_attention(self, seconds: float, progress: ProgressCallback) -> str:
        """Every backend that runs, at the model's real shape; where that takes long with one head
        and fewer queries, which changes no query's work."""
        config = self.models[-1]
        trunk, latent, precision = config.trunk, config.segment.shape.latent, self._precision(config)
        names = [
            name
            for name in list_runnable(self.device, precision.compute, trunk.head_dim)
            if not (self.device.type == "cuda" and name == "math")
        ]
        queries = trunk.text_tokens + latent.tokens
        keys, heads = queries + latent.tokens_per_frame, trunk.heads
        flop = 4 * trunk.head_dim * heads * queries * keys
        share = min(1.0, (self.rate or 1e10) * EFFICIENCY * seconds / len(names) / 4 / flop)
        if share < 1:
            heads, queries = 1, max(64, min(queries, round(queries * share * heads)))
        shapes = ((1, heads, count, trunk.head_dim) for count in (queries, keys, keys))
        q, k, v = (draw_random(self.device, precision, *shape) for shape in shapes)
        flop, rates, failed = 4 * trunk.head_dim * heads * queries * keys, dict[str, float](), list[str]()
        for name in names:
            try:
                run = {name: partial(BACKENDS[name], q, k, v)}
                rates[name] = flop / self._time(run, seconds / len(names), progress)[name].seconds
            except Exception as error:
                failed.append(f"{name} {'out of memory' if is_out_of_memory(error) else 'failed'}")
        self.attention_rate = rates.get("auto", 0.0)
        shown = [f"{BACKENDS[name].title} {_rate(rate)}" for name, rate in rates.items()]
        return f"{', '.join((*shown, *failed))} ({queries} x {keys} tokens, {heads} of {trunk.heads} heads)"

    def _measure_copies(self, seconds: float, progress: ProgressCallback) -> str:
        cuda, size = self.device.type == "cuda", 1 << (28 if self.device.type == "cuda" else 26)
        target, source = (torch.zeros(size, dtype=torch.uint8, device=self.device) for _ in range(2))
        parts = {"on the device": partial(target.copy_, source)}
        if cuda:
            pageable = torch.ones(size, dtype=torch.uint8)
            parts["to it, pageable"] = partial(target.copy_, pageable)
            parts["to it, pinned"] = partial(target.copy_, pageable.pin_memory(), non_blocking=True)
        times = self._time(parts, seconds, progress)
        rates = {name: size * (1 + (name == "on the device")) / each.seconds for name, each in times.items()}
        return ", ".join(f"{name} {format_bytes(rate)}/s" for name, rate in rates.items())

    def _measure_model(self, config: Hallo3Config, seconds: float, progress: ProgressCallback) -> str:
        precision = self._precision(config)
        kernels = choose_kernels(AUTO, self.device, precision.compute).kernels
        speed = ModelMeasurement(config, precision, self.device, kernels, self.rate or 1e10).measure(
            seconds, progress, self.attention_rate
        )
        key = speed_key(config, precision.name)
        self.speeds[key] = speed
        save_speed(self.device, key, speed)
        return (
            f"{precision.name}, {kernels.name} kernels: {self._describe(config, precision, kernels, speed)}"
        )

    def _describe(
        self, config: Hallo3Config, precision: Precision, kernels: Kernels, speed: ModelSpeed
    ) -> str:
        """A run with the model's own settings, as far as it would be planned for what is free now."""
        settings, segment = settings_for(config.defaults), config.segment
        needs = MemoryRequirements(
            precision=precision, steps=settings.steps, branches=settings.branches, fused=kernels is not PLAIN
        )
        streamed = 0
        try:
            sizes = _sizes(config, precision)
            if self.device.type == "cuda":
                offload = plan_memory(sizes, needs, free_bytes(self.device), available_bytes()).offload
                streamed = 0 if offload.home == DEVICE else config.trunk.layers - offload.resident
            elif not is_small(config):
                plan_cpu_memory(sizes, needs, available_bytes())  # reading takes less time than computing
        except InputError as error:
            return f"{error.headline} It needs {error.expected}."
        time_of = speed.segment_time(
            guided=len(settings.guided),
            unguided=settings.steps - len(settings.guided),
            pixels=segment.new_frames * segment.height * segment.width,
            streamed=streamed,
        )
        facts = [f"block {_short(speed.both / speed.blocks)} both branches"]
        facts += [f"{_short(speed.streamed / speed.blocks)} streamed"] if speed.streamed else []
        facts += [f"encode, decode {_short(speed.beside)}"]
        if time_of is None:
            return f"{', '.join(facts)}; its blocks would be streamed, which was not measured"
        seconds, pace = time_of.seconds, time_of.seconds / (segment.new_frames / segment.fps)
        blocks = f"{streamed} of {speed.blocks} blocks streamed, " * bool(streamed)
        run = f"{settings.steps} step{'s' * (settings.steps > 1)}, {blocks}{_short(seconds)} per segment"
        minute = format_range(60 * pace, time_of.error)
        return f"{', '.join(facts)}; {run}: {minute} of computing for a minute of video"

    def _precision(self, config: Hallo3Config) -> Precision:
        """As the command chooses it."""
        if is_small(config):
            return PRECISIONS["fp32"]
        if self.device.type == "cuda":
            return PRECISIONS["bf16" if computes_bf16(self.device) else "fp16"]
        precision = PRECISIONS["fp32"]
        needs = MemoryRequirements(precision=precision, steps=config.defaults.steps, branches=2)
        try:
            whole = plan_cpu_memory(_sizes(config, precision), needs, ram_bytes()).offload.home == DEVICE
        except InputError:
            whole = False
        return precision if whole else PRECISIONS["bf16"]

    def _time(
        self, parts: Mapping[str, Callable[[], object]], seconds: float, progress: ProgressCallback
    ) -> dict[str, Timing]:
        return time_in_turn(parts, seconds, self.device, progress)


@cache
def _sizes(config: Hallo3Config, precision: Precision) -> ModelSizes:
    return measure_sizes(config, precision, TEXT_ENCODERS[config.name], SPEECH_ENCODERS[config.name])


def _rate(flop: float) -> str:
    return f"{flop / 1e12:.3g} TFLOP/s"


def _short(seconds: float) -> str:
    if seconds >= 90:
        return format_duration(seconds)
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
