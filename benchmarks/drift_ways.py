"""The exact way to make a video and every approximation of it that runs here, and a video made by one."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hallo3.attention import BACKENDS, get_backend, why_unsupported
from hallo3.checkpoints.component_config import read_component_config, read_model_config
from hallo3.checkpoints.locate import ModelFolder
from hallo3.config import Hallo3Config
from hallo3.errors import InputError
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.models import Models
from hallo3.offload.budget import MemoryPlan, plan_memory
from hallo3.offload.estimate import MemoryRequirements, measure_sizes
from hallo3.offload.system_memory import free_bytes, ram_bytes
from hallo3.pipeline import RenderProgress, animate
from hallo3.quantization.precision import PRECISIONS, Precision, check_device
from hallo3.sampling.step_cache import CacheReport
from hallo3.settings import APPROXIMATIONS, Settings

EXACT, ANOTHER_SEED = "exact", "another seed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a video is made."""

    settings: Settings
    precision: Precision
    attention: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What it is made of, and where."""

    model: Path
    device: torch.device
    portrait: Tensor
    speech: Recording
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A video [F, 3, H, W] in 0..1, forward passes of a branch that it took, which attention ran, what the
    step cache did, and seconds without loading the transformer."""

    frames: Tensor
    evaluations: int
    attention: str
    cache: CacheReport
    seconds: float


def ways(exact: Way, device: torch.device, head_dim: int) -> tuple[dict[str, Way], dict[str, str]]:
    """The exact way first, another seed to show what noise alone does, and every approximation by itself; and
    which are left out, and why."""
    settings = exact.settings
    found = {EXACT: exact, ANOTHER_SEED: replace(exact, settings=replace(settings, seed=settings.seed + 1))}
    left: dict[str, str] = {}
    for name, each in APPROXIMATIONS.items():
        if each.saves(settings):
            found[name] = replace(exact, settings=each.apply(settings))
        else:
            left[name] = "saves nothing with these settings"
    for name, precision in PRECISIONS.items():
        if precision.compute is torch.float16 or name in ("fp32", exact.precision.name):
            continue
        try:
            check_device(precision, device)
            found[name] = replace(exact, precision=precision)
        except InputError as error:
            left[name] = f"needs {error.expected}"
    for name, backend in BACKENDS.items():
        if not backend.exact:
            trouble = why_unsupported(backend, device, exact.precision.compute, head_dim)
            if trouble:
                left[name] = trouble
            else:
                found[name] = replace(exact, attention=name)
    return found, left


def chosen(
    exact: Way, device: torch.device, head_dim: int, only: Sequence[str]
) -> tuple[dict[str, Way], dict[str, str]]:
    """What :func:`ways` finds, or the exact way and ``only`` some of the others. Raises ``InputError`` for a
    name that is none; one that cannot run here is told among those left out."""
    found, left = ways(exact, device, head_dim)
    unknown = [name for name in only if name not in found.keys() | left.keys()]
    if unknown:
        raise InputError(
            "There is no such way to make a video.",
            found=", ".join(map(repr, unknown)),
            expected="some of " + ", ".join((*found, *left)),
            fix="choose among these, or leave --only out",
        )
    if not only:
        return found, left
    wanted = {EXACT, *only}
    left |= dict.fromkeys([name for name in found if name not in wanted], "not asked for")
    return {name: way for name, way in found.items() if name in wanted}, left


def make(way: Way, source: Source) -> Made:
    """A video. Raises the errors of :mod:`hallo3.errors`."""
    plan = planned(way, source)
    settings = way.settings if plan is None else arranged(way.settings, plan)
    head_dim = read_model_config(ModelFolder(source.model).transformer).trunk.head_dim
    attention = get_backend(way.attention, source.device, way.precision.compute, head_dim)
    models = load_models(source.model, source.device, way.precision, memory=plan, attention=attention)
    cache = CacheReport()

    def watch(progress: RenderProgress) -> None:
        nonlocal cache
        if progress.cache is not None and progress.step == progress.steps:
            cache += progress.cache

    with counted(models) as passes:
        begun = time.perf_counter()
        made = animate(source.portrait, source.speech, source.prompt, models, settings, watch=watch)
        frames = torch.cat([each.pixels.cpu() for each in made])
        seconds = time.perf_counter() - begun
    del models, made
    gc.collect()
    if source.device.type == "cuda":
        torch.cuda.empty_cache()
    return Made(
        frames=frames, evaluations=sum(passes), attention=attention.title, cache=cache, seconds=seconds
    )


def cut(speech: Recording, seconds: float) -> Recording:
    """The beginning of a recording."""
    return Recording(speech.waveform[:, : round(seconds * speech.sample_rate)], speech.sample_rate)


def warm_up(way: Way, source: Source, config: Hallo3Config) -> None:
    """Two steps of a segment, so that what the first run of a process waits for is in no figure."""
    settings = replace(way.settings, steps=min(2, way.settings.steps))
    segment = config.segment.new_frames / config.segment.fps
    make(replace(way, settings=settings), replace(source, speech=cut(source.speech, segment)))


@contextmanager
def counted(models: Models) -> Generator[list[int]]:
    """Branches of every forward pass of the transformer, as it is made. The transformer is loaded for it."""
    passes: list[int] = []

    def count(_: object, inputs: tuple[Tensor, ...], __: object) -> None:
        passes.append(len(inputs[0]))

    with models.transformer as network:
        hook = network.proj_out.register_forward_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


def planned(way: Way, source: Source) -> MemoryPlan | None:
    """On CUDA what the command plans for a run: whatever is free may be used."""
    if source.device.type != "cuda":
        return None
    files = ModelFolder(source.model)
    text, speech = (
        read_component_config(files.text_encoder, "text_encoder"),
        read_component_config(files.speech_encoder, "speech_encoder"),
    )
    sizes = measure_sizes(read_model_config(files.transformer), way.precision, text, speech)
    demand = MemoryRequirements(
        precision=way.precision, steps=way.settings.steps, branches=way.settings.branches
    )
    return plan_memory(sizes, demand, free_bytes(source.device), ram_bytes())


def arranged(settings: Settings, plan: MemoryPlan) -> Settings:
    """The settings that a plan decides; they change no result beyond rounding."""
    chosen = plan.offload
    return replace(
        settings,
        passes=chosen.passes,
        on_access=chosen.on_access,
        steps_on_access=chosen.steps_on_access,
    )
