"""For owners of released weights: what approximations do to your video.

    python -m benchmarks drift --model DIR --portrait P --speech S [--seconds 4]

The exact video and every approximation that runs here are rendered with one seed and compared frame by frame;
another seed shows what noise alone does. The output names no file and no folder: paste it into an issue. PSNR
and SSIM say how far a video is from the exact one, not which is better. Photographs get ``seam``,
``sharpness`` and ``movement``, and ``face`` if faces can be distinguished; drawn faces also get how the mouth
``follows`` the speech, and how open it is in silence.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from behaviour.cases import Case, make_speaker
from behaviour.figures import measure_video
from behaviour.pixels import measure_changes, measure_seams, measure_sharpness
from behaviour.suite import find_heads
from benchmarks.report import Result, Scenario, format_table, get_device, hide_paths
from hallo3.attention_backend import BACKENDS, get_backend, why_unsupported
from hallo3.checkpoints.load import read_component_config, read_model_config
from hallo3.checkpoints.locate import ModelFolder
from hallo3.config import Hallo3Config
from hallo3.errors import InputError
from hallo3.face.analyzer import Face
from hallo3.face.registry import SimilarityFunction, analyze_portrait, create_analyzer, similarity_to
from hallo3.loading import load_models
from hallo3.media.audio import Recording, read_recording
from hallo3.media.image import read_picture
from hallo3.models import Models
from hallo3.offload.budget import plan_memory
from hallo3.offload.estimate import MemoryRequirements
from hallo3.offload.sizes import measure_sizes
from hallo3.offload.system_memory import free_bytes, ram_bytes
from hallo3.pipeline import RenderProgress, animate
from hallo3.quantization import PRECISIONS, Precision, check_device, get_precision
from hallo3.sampling.step_cache import CacheReport
from hallo3.settings import APPROXIMATIONS, Settings, settings_for

EXACT, ANOTHER_SEED = "exact", "another seed"
DRAWN = "drawn-face"
MOUTH = ("follows", "silent", "colour")
"""Figures of a drawn face's mouth and cheeks."""
SSIM_WINDOW = 7
SSIM_STABILIZERS = 0.01**2, 0.03**2
"""Of values in 0..1."""


def ssim(video: Tensor, reference: Tensor) -> float:
    """Structural similarity (Wang et al. 2004, as in scikit-image) of frames [F, 3, H, W] in 0..1: the mean
    over channels and windows, with sample variances."""
    if video.shape != reference.shape or video.ndim != 4 or min(video.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"cannot compare {list(video.shape)} with {list(reference.shape)}")

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, SSIM_WINDOW, 1)

    light, contrast = SSIM_STABILIZERS
    correction = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    total = 0.0
    for x, y in zip(video.double(), reference.double(), strict=True):  # a frame at a time, for memory
        a, b = mean(x), mean(y)
        variances = correction * (mean(x * x) + mean(y * y) - a * a - b * b)
        covariance = correction * (mean(x * y) - a * b)
        top = (2 * a * b + light) * (2 * covariance + contrast)
        total += float((top / ((a * a + b * b + light) * (variances + contrast))).mean())
    return total / len(video)


def psnr(error: float) -> float | str:
    """Decibels of a mean squared error, "equal" for none."""
    return round(-10 * math.log10(error), 2) if error else "equal"


def compare_videos(video: Tensor, reference: Tensor) -> dict[str, float | str]:
    """PSNR and SSIM of two videos [F, 3, H, W] in 0..1, and the PSNR of the worst frame."""
    pairs = zip(video, reference, strict=True)
    errors = [float((x.double() - y.double()).square().mean()) for x, y in pairs]
    return {
        "psnr": psnr(sum(errors) / len(errors)),
        "worst_psnr": psnr(max(errors)),
        "ssim": round(ssim(video, reference), 4),
    }


@dataclass(slots=True)
class RenderCounts:
    """Forward passes of a branch, rendered segments, and what the step cache did."""

    evaluations: int = 0
    segments: int = 0
    cache: CacheReport = field(default_factory=CacheReport)

    def watch(self, progress: RenderProgress) -> None:
        if progress.step == progress.steps:
            self.segments += 1
            self.cache += progress.cache or CacheReport()

    @contextmanager
    def count(self, models: Models) -> Generator[None]:
        """Count the transformer's passes; it is loaded for that."""

        def add(_: object, inputs: tuple[Tensor, ...], __: object) -> None:
            self.evaluations += len(inputs[0])

        with models.transformer as network:
            hook = network.proj_out.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def describe_cache(self) -> dict[str, float | bool]:
        if not self.cache.steps:
            return {}
        return {"worst_check": round(self.cache.worst, 3), "switched_off": bool(self.cache.off)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to render the video."""

    settings: Settings
    precision: Precision
    attention: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    model: Path
    device: torch.device
    portrait: Tensor
    speech: Recording
    prompt: str = ""

    def cut(self, seconds: float) -> Inputs:
        """With the beginning of the speech."""
        rate = self.speech.sample_rate
        return replace(self, speech=Recording(self.speech.waveform[:, : round(seconds * rate)], rate))


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """Frames [F, 3, H, W] in 0..1, and the ``seconds`` of rendering."""

    frames: Tensor
    counts: RenderCounts
    attention: str
    seconds: float


def list_variants(
    exact: Variant, device: torch.device, head_dim: int, only: Sequence[str] = ()
) -> tuple[dict[str, Variant], dict[str, str]]:
    """The exact variant first, another seed, and every approximation alone, or ``only`` some of them;
    then those that are skipped, and why. Raises ``InputError`` for an unknown name."""
    settings = exact.settings
    another_seed = replace(exact, settings=replace(settings, seed=settings.seed + 1))
    variants, skipped = {EXACT: exact, ANOTHER_SEED: another_seed}, dict[str, str]()
    for name, each in APPROXIMATIONS.items():
        if each.saves(settings):
            variants[name] = replace(exact, settings=each.apply(settings))
        else:
            skipped[name] = "saves nothing with these settings"
    for name, precision in PRECISIONS.items():
        if precision.compute is torch.float16 or name in ("fp32", exact.precision.name):
            continue
        try:
            check_device(precision, device)
            variants[name] = replace(exact, precision=precision)
        except InputError as error:
            skipped[name] = f"needs {error.expected}"
    for name, backend in BACKENDS.items():
        if not backend.exact:
            if reason := why_unsupported(backend, device, exact.precision.compute, head_dim):
                skipped[name] = reason
            else:
                variants[name] = replace(exact, attention=name)
    if unknown := [name for name in only if name not in variants.keys() | skipped.keys()]:
        raise InputError(
            "Unknown variant.",
            found=", ".join(map(repr, unknown)),
            expected="some of " + ", ".join((*variants, *skipped)),
            fix="choose among these, or remove --only",
        )
    if only:
        skipped |= {name: "not asked for" for name in variants if name not in {EXACT, *only}}
        variants = {name: variant for name, variant in variants.items() if name in {EXACT, *only}}
    return variants, skipped


def render_variant(variant: Variant, inputs: Inputs) -> Video:
    """On CUDA with the memory plan of the command. Raises the errors of :mod:`hallo3.errors`."""
    files, settings, plan = ModelFolder(inputs.model), variant.settings, None
    config = read_model_config(files.find("transformer"))
    if inputs.device.type == "cuda":
        text = read_component_config(files.find("text_encoder"), "text_encoder")
        speech = read_component_config(files.find("speech_encoder"), "speech_encoder")
        steps, branches = settings.steps, settings.branches
        requirements = MemoryRequirements(precision=variant.precision, steps=steps, branches=branches)
        sizes = measure_sizes(config, variant.precision, text, speech)
        plan = plan_memory(sizes, requirements, free_bytes(inputs.device), ram_bytes())
        access = {name: getattr(plan.offload, name) for name in ("passes", "on_access", "steps_on_access")}
        settings = replace(settings, **access)
    dtype, head_dim = variant.precision.compute, config.trunk.head_dim
    attention = get_backend(variant.attention, inputs.device, dtype, head_dim)
    models = load_models(files, inputs.device, variant.precision, memory=plan, attention=attention)
    counts = RenderCounts()
    with counts.count(models):
        start = time.perf_counter()
        given = inputs.portrait, inputs.speech, inputs.prompt
        segments = animate(*given, models, settings, watch=counts.watch)
        frames = torch.cat([segment.pixels.cpu() for segment in segments])
        seconds = time.perf_counter() - start
    del models, segments
    gc.collect()
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()
    return Video(frames=frames, counts=counts, attention=attention.title, seconds=seconds)


def measure_variants(inputs: Inputs, variants: Mapping[str, Variant], skipped: Mapping[str, str]) -> Result:
    """The first of ``variants`` is the exact one."""
    files = ModelFolder(inputs.model)
    config = read_model_config(files.find("transformer"))
    analyzer = create_analyzer(config.face, files.faces)
    face = analyze_portrait(inputs.portrait, analyzer, config.face)
    similarity, exact = similarity_to(face.embedding, analyzer), variants[EXACT]
    first_segment = inputs.cut(config.segment.new_frames / config.segment.fps)
    short = replace(exact.settings, steps=min(2, exact.settings.steps))
    render_variant(replace(exact, settings=short), first_segment)  # a first run waits for what no other does
    rows: dict[str, Result] = {}
    reference: Video | None = None
    for name, variant in variants.items():
        video = render_variant(variant, inputs)
        row: Result = {"evaluations": video.counts.evaluations, "seconds": round(video.seconds, 1)}
        if reference is not None:
            row |= compare_videos(video.frames, reference.frames)
        row |= video.counts.describe_cache()
        rows[name] = row | _measure_alone(video.frames, config, inputs, face, similarity)
        print(f"{name}: {video.seconds:.1f} s", file=sys.stderr, flush=True)
        reference = reference or video
    assert reference is not None
    frames, settings = reference.frames, exact.settings
    facts = {
        "model": config.name,
        "frames": len(frames),
        "segments": -(-len(frames) // config.segment.new_frames),
        "size": f"{frames.shape[-1]} x {frames.shape[-2]}",
        "steps": settings.steps,
        "guidance": settings.guidance_scale,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "type": exact.precision.name,
        "attention": reference.attention,
    }
    reasons = {name: hide_paths(reason) for name, reason in skipped.items()}
    return {"made": facts, "ways": rows, "skipped": reasons}


def _measure_alone(
    frames: Tensor, config: Hallo3Config, inputs: Inputs, face: Face, similarity: SimilarityFunction
) -> dict[str, float]:
    """Figures that need no other video; what cannot be measured is missing."""
    new = config.segment.new_frames
    figures: dict[str, float] = {
        "seam": measure_seams(measure_changes(frames), new),
        "sharpness": measure_sharpness(frames),
        "movement": float(measure_changes(frames).mean()),
    }
    values = [similarity(frame) for frame in frames[:: config.segment.fps]]
    if known := [value for value in values if value is not None]:
        figures["face"] = sum(known) / len(known)
    height, width = inputs.portrait.shape[-2:]
    if config.face.space == DRAWN and frames.shape[-1] * height == frames.shape[-2] * width:
        (head,) = find_heads(inputs.portrait, face.boxes[face.index or 0 :][:1])
        speaker = make_speaker(head, inputs.speech, config.segment)
        case = Case(name="", portrait=inputs.portrait, speakers=(speaker,))
        drawn = measure_video(frames, case, new_frames=new).as_dict()
        figures |= {name: drawn[name] for name in MOUTH}
    return {name: round(value, 3) for name, value in figures.items() if value == value}


def measure(options: Namespace) -> Result:
    device = get_device(options.device)
    config = read_model_config(ModelFolder(options.model).find("transformer"))
    given = {"steps": options.steps, "guidance_scale": options.guidance, "sampler": options.sampler}
    settings = settings_for(config.defaults, **given, seed=options.seed)
    default = "fp32" if device.type == "cpu" else "bf16"
    precision = get_precision(default if options.dtype == "auto" else options.dtype)
    exact = Variant(settings=settings, precision=precision, attention=options.attention)
    variants, skipped = list_variants(exact, device, config.trunk.head_dim, options.only)
    portrait, speech = read_picture(options.portrait), read_recording(options.speech)
    inputs = Inputs(
        model=options.model, device=device, portrait=portrait, speech=speech, prompt=options.prompt
    )
    with torch.inference_mode():
        return measure_variants(inputs.cut(options.seconds), variants, skipped)


def show(result: Result, _: Namespace) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in result["made"].items() if value != "")
    print(f"on {result['machine']['device']}: {facts}\n\n{format_table(result['ways'])}")
    if result["skipped"]:
        print("\nskipped:", *(f"{name}: {reason}" for name, reason in result["skipped"].items()), sep="\n")
    print(f"\n```json\n{json.dumps(result)}\n```")


def add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the model's folder")
    add("--portrait", type=Path, required=True, metavar="P")
    add("--speech", type=Path, required=True, metavar="S")
    add("--seconds", type=float, default=4.0, metavar="N", help="of the speech (default: 4)")
    add("--prompt", default="", metavar="TEXT", help="is not in the result")
    add("--device", default="auto", help="default: a GPU if there is one")
    add("--dtype", default="auto", help="of the exact video (default: bf16 on a GPU, else fp32)")
    add("--attention", default="auto", metavar="NAME", help="of the exact video (default: torch's choice)")
    add("--steps", type=int, metavar="N", help="default: the model's")
    add("--guidance", type=float, metavar="G", help="default: the model's")
    add("--sampler", metavar="NAME", help="default: the model's")
    add("--seed", type=int, default=0)
    add("--only", nargs="+", default=[], metavar="NAME", help="only these beside the exact video")


DRIFT = Scenario(measure=measure, add_options=add_options, show=show)
