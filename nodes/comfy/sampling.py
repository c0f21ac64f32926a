"""The original's sampler and schedule in ComfyUI's terms."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import comfy.model_management as mm
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...hallo3.config import Hallo3Config
from ...hallo3.errors import InputError, check_choice
from ...hallo3.noise import Noise, Purpose, make_noise
from ...hallo3.sampling.samplers import SAMPLERS, noise_scale
from ...hallo3.sampling.schedule import Step, schedule_to_sigmas, sigmas_to_schedule
from ...hallo3.sampling.step_cache import StepCache
from ...hallo3.settings import CACHE_BOUND, check_step_cache
from .cues import choose_entries
from .guider import StrengthGuider
from .memory import spare_bytes
from .model import (
    SEGMENT,
    SILENT,
    TIMESTEP,
    Conditioning,
    SegmentInput,
    attention_in_use,
    branches,
    check_conditioning,
    config_of,
    cut_text,
    leave_free,
)
from .progress import explain_errors


def original_sigmas(model: Any, steps: int) -> Tensor:
    """The original's schedule as SIGMAS; ComfyUI's largest sigma stands for pure noise. Raises ``InputError``
    for a MODEL to which another node has given noise without zero SNR."""
    sigmas = schedule_to_sigmas(steps, float(model.get_model_object("model_sampling").sigma_max))
    if not is_falling(sigmas):
        raise InputError(
            "The original's schedule does not fit this model's noise.",
            found=f"a largest sigma of {float(sigmas[0]):g}, as a ModelSampling node sets it",
            expected="a noise schedule with zero terminal SNR, like Hallo3's",
            fix="remove that node, or connect sigmas from BasicScheduler and another sampler",
        )
    return sigmas


def is_falling(sigmas: Tensor) -> bool:
    """Whether sigmas are at least two finite, falling numbers, none below 0."""
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool(sigmas.isfinite().all()):
        return False
    return bool((sigmas.diff() < 0).all()) and float(sigmas[-1]) >= 0


def check_sigmas(sigmas: Any) -> None:
    if isinstance(sigmas, Tensor) and is_falling(sigmas):
        return
    raise InputError(
        "The sigmas cannot be sampled.",
        found=f"{sigmas.flatten()[:4].tolist()} ..." if isinstance(sigmas, Tensor) else repr(sigmas),
        expected="at least two finite numbers that fall",
        fix="connect Hallo3 Original Schedule or BasicScheduler",
    )


def original_sampler(name: str, step_cache: float = 0.0, step_cache_bound: float = CACHE_BOUND) -> Any:
    """One of the package's samplers as a SAMPLER; ``step_cache`` 0 is without. Raises ``InputError``."""
    check_choice(name, SAMPLERS, "sampler")
    check_step_cache(step_cache, step_cache_bound)
    cache = {"step_cache": step_cache, "step_cache_bound": step_cache_bound} if step_cache else {}
    return comfy.samplers.KSAMPLER(_sample, {"name": name, **cache})


@explain_errors()
def _sample(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Any = None,
    disable: Any = None,
    *,
    name: str,
    noise_source: Any = None,
    step_cache: float = 0.0,
    step_cache_bound: float = CACHE_BOUND,
) -> Tensor:
    """k-diffusion's calling convention around our samplers. The original's table gives the network's timestep
    and scales its velocity, whatever ComfyUI's own says of the sigma."""
    del disable
    extra_args = extra_args or {}
    check_sigmas(sigmas)
    table = model.inner_model.inner_model.model_sampling
    if not isinstance(table, comfy.model_sampling.V_PREDICTION):
        raise InputError(
            "The original's sampler does not fit this model's sampling.",
            found=" + ".join(kind.__name__ for kind in type(table).__mro__[1:-1][:3]),
            expected="v-prediction, as Hallo3's networks were trained",
            fix="remove the ModelSampling node, or connect another sampler",
        )
    source = noise_source or seeded_step_noise(make_noise(extra_args.get("seed") or 0), 0)
    steps = sigmas_to_schedule(
        sigmas, float(table.sigma_max), lambda sigma: float(table.timestep(torch.tensor(sigma)))
    )
    sizes = [float(sigma) for sigma in sigmas]

    def compute(latents: Tensor, step: Step) -> Tensor:
        sigma, scale = sizes[step.index], (1 + sizes[step.index] ** 2) ** 0.5
        options = dict(extra_args.get("model_options") or {})
        options["transformer_options"] = {**options.get("transformer_options", {}), TIMESTEP: step.timestep}
        args = {**extra_args, "model_options": options}
        estimate = model(latents * scale, sigmas[step.index].expand(len(x)), **args)
        velocity = (latents / scale - estimate) * (scale / sigma)
        return step.table_alpha * latents - noise_scale(step.table_alpha) * velocity

    cache, guider, count = None, model.inner_model, len(steps.steps)
    if step_cache:
        always = guider.changes(count) if isinstance(guider, StrengthGuider) else []
        cache = StepCache(compute, count, step_cache, step_cache_bound, at_least=always)

    def denoise(latents: Tensor, step: Step) -> Tensor:
        denoised, sigma = (cache or compute)(latents, step), sizes[step.index]
        if callback is not None:
            noisy = latents * (1 + sigma**2) ** 0.5
            callback({"x": noisy, "i": step.index, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        return denoised

    def draw(index: int) -> Tensor:
        return source(steps.first + index, tuple(x.shape)).to(x)

    start = x / (1 + sizes[0] ** 2) ** 0.5
    latents = SAMPLERS[name](denoise, start, steps, draw, lambda _: None)
    if cache is not None:
        logging.info("Hallo3: %s", cache.report.text())
    return latents * (1 + sizes[-1] ** 2) ** 0.5


def seeded_step_noise(noise: Noise, segment: int) -> Any:
    """A run's noise as the source of one segment's steps."""
    return lambda index, shape: noise(Purpose.STEP, segment, index, shape)


def step_cache_threshold(sampler: Any) -> float:
    """Threshold of a SAMPLER's step cache; 0 if it has none."""
    if getattr(sampler, "sampler_function", None) is not _sample:
        return 0.0
    return float(sampler.extra_options.get("step_cache", 0.0))


def bind_noise(sampler: Any, noise: Noise, segment: int) -> Any:
    """Give the original sampler a run's noise; another sampler is unchanged."""
    if getattr(sampler, "sampler_function", None) is not _sample:
        return sampler
    options = {**sampler.extra_options, "noise_source": seeded_step_noise(noise, segment)}
    return comfy.samplers.KSAMPLER(_sample, options, sampler.inpaint_options)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a run is sampled; None is the original's, 0 the model's own number. ``guider`` has its own model,
    guidance and text. Raises ``InputError`` for another model and for sigmas that cannot be sampled."""

    model: Any
    steps: int
    guidance_scale: float
    positive: Conditioning | None = None
    guider: Any = None
    sampler: Any = None
    sigmas: Tensor | None = None

    def __post_init__(self) -> None:
        if self.guider is not None and not hasattr(self.guider, "model_patcher"):
            raise InputError(
                "The guider cannot be used.",
                found=f"a {type(self.guider).__name__} without a model",
                expected="a GUIDER from CFGGuider, BasicGuider or the like",
                fix="connect one of these, or disconnect guider",
            )
        defaults = config_of(self.patcher, "model" if self.guider is None else "guider's model").defaults
        for name in ("steps", "guidance_scale"):
            object.__setattr__(self, name, getattr(self, name) or getattr(defaults, name))
        check_conditioning(self.positive)
        if self.sampler is not None and not hasattr(self.sampler, "sample"):
            raise InputError(
                "The sampler cannot be used.",
                found=repr(self.sampler)[:60],
                expected="a SAMPLER from Hallo3 Original Sampler, KSamplerSelect or the like",
                fix="connect one of these, or disconnect sampler",
            )
        if self.sigmas is not None:
            check_sigmas(self.sigmas)

    @property
    def branches(self) -> int:
        """The most of any step."""
        if isinstance(self.guider, StrengthGuider):
            return self.guider.strengths.branches
        return 1 if self.guidance_scale == 1 else 2

    @property
    def patcher(self) -> Any:
        return self.model if self.guider is None else self.guider.model_patcher

    @property
    def config(self) -> Hallo3Config:
        return config_of(self.patcher)

    def schedule(self) -> Tensor:
        """Sigmas of all segments of a run."""
        return original_sigmas(self.patcher, self.steps) if self.sigmas is None else self.sigmas

    def describe_attention(self) -> str:
        return f"attention by {attention_in_use(self.patcher.model_options.get('transformer_options'))}"

    def log_attention(self) -> None:
        logging.info("Hallo3: %s", self.describe_attention())

    def sample(
        self,
        segment_input: SegmentInput,
        sigmas: Tensor,
        noise: Noise,
        seed: int,
        segment: int,
        callback: Any,
        share: float = 1.0,
    ) -> Tensor:
        """Unscaled latents [1, C, T, h, w]; ``callback`` follows each step; ``share`` is of the device.
        Raises ``InputError`` for NaN."""
        config = self.config
        shape = (1, config.trunk.latent_channels, *config.segment.shape.latent)
        start = noise(Purpose.START, segment, 0, shape)
        sampler = self.sampler or original_sampler(config.defaults.sampler)
        with leave_free(spare_bytes(self.patcher.load_device, share)):
            latents = self._guider(segment_input).sample(
                start,
                torch.zeros_like(start),
                bind_noise(sampler, noise, segment),
                sigmas,
                callback=callback,
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=segment_seed(seed, segment),
            )
        if not bool(latents.isfinite().all()):
            raise InputError(
                "Sampling produced NaN values.",
                found=f"NaN or infinity in segment {segment}",
                expected="finite latents",
                fix="try another weight_dtype or other weights; remove LoRA, ModelSampling and guider nodes",
            )
        return latents.to(mm.intermediate_device(), mm.intermediate_dtype())

    def _guider(self, segment: SegmentInput) -> Any:
        """ComfyUI's CFG guider, or a copy of the user's with this segment's input; it keeps its texts, and
        what had no speech stays without."""
        if self.guider is None:
            guider = comfy.samplers.CFGGuider(self.model)
            guider.set_conds(*branches(self.positive, segment, self.config))
            guider.set_cfg(self.guidance_scale)
            return guider
        guider, trunk = copy.copy(self.guider), self.config.trunk
        no_text = [[torch.zeros(1, trunk.text_tokens, trunk.text_dim), {}]]  # where no prompt is in force
        zero = comfy.sampler_helpers.convert_cond(no_text)
        guider.original_conds = {
            name: [
                self._set_segment(name, entry, segment)
                for entry in choose_entries(entries, entries, segment.frame, self.config.segment.fps) or zero
            ]
            for name, entries in self.guider.original_conds.items()
        }
        return guider

    def _set_segment(self, name: str, entry: dict[str, Any], segment: SegmentInput) -> dict[str, Any]:
        before: SegmentInput | None = entry.get(SEGMENT)
        silent = name in SILENT if before is None else not bool(before.windows.any())
        text = cut_text(entry.get("cross_attn"), self.config)
        return {**entry, "cross_attn": text, SEGMENT: segment.without_speech() if silent else segment}


def segment_seed(seed: int, segment: int) -> int:
    """Seed of ComfyUI's samplers, a different one per segment."""
    return int.from_bytes(blake2b(f"{seed}|{segment}".encode(), digest_size=8).digest(), "little") >> 1
