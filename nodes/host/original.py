"""The original's sampler and schedule in ComfyUI's terms."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...hallo3.noise import Noise, Purpose, seeded_noise
from ...hallo3.sampling.denoiser import noise_share
from ...hallo3.sampling.samplers import sampler_named
from ...hallo3.sampling.schedule import Step
from ...hallo3.sampling.sigmas import schedule_of, sigmas_of
from .transformer import TIMESTEP

NOISE_SOURCE = "noise_source"
"""Option of the original sampler: where its noise comes from; left out, from the seed."""


def original_sigmas(model: Any, steps: int) -> Tensor:
    """The original's schedule as SIGMAS; ComfyUI's largest sigma stands for its pure noise."""
    return sigmas_of(steps, _sigma_max(model.model))


def original_sampler(name: str) -> Any:
    """One of the package's samplers as a SAMPLER."""
    sampler_named(name)
    return comfy.samplers.KSAMPLER(_sample, {"name": name})


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
) -> Tensor:
    """k-diffusion's way of calling, around a sampler that thinks in shares of signal and noise.

    The network is told the original's timestep and its velocity is scaled by the table's entry, whatever
    ComfyUI's own table says of the sigma; so nothing of its finite largest sigma remains.
    """
    del disable
    extra_args = extra_args or {}
    inner = model.inner_model.inner_model
    source = noise_source or seeded_step_noise(seeded_noise(extra_args.get("seed") or 0), 0)
    steps = schedule_of(sigmas, _sigma_max(inner), lambda sigma: _timestep(inner, sigma))
    sizes = [float(sigma) for sigma in sigmas]

    def denoise(latents: Tensor, step: Step) -> Tensor:
        sigma = sizes[step.index]
        scale = (1 + sigma**2) ** 0.5
        noisy = latents * scale
        given = model(noisy, sigmas[step.index].expand(len(x)), **_told(extra_args, step.timestep))
        velocity = (latents / scale - given) * (scale / sigma)
        denoised = step.table_alpha * latents - noise_share(step.table_alpha) * velocity
        if callback is not None:
            callback({"x": noisy, "i": step.index, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        return denoised

    def draw(index: int) -> Tensor:
        return source(index, tuple(x.shape)).to(x)

    start = x / (1 + sizes[0] ** 2) ** 0.5
    made = sampler_named(name)(denoise, start, steps, draw, lambda _: None)
    return made * (1 + sizes[-1] ** 2) ** 0.5


def seeded_step_noise(noise: Noise, segment: int) -> Any:
    """A run's named noise as the source for one segment's steps."""
    return lambda index, shape: noise(Purpose.STEP, segment, index, shape)


def _told(extra_args: dict[str, Any], timestep: float) -> dict[str, Any]:
    options = dict(extra_args.get("model_options") or {})
    options["transformer_options"] = {**options.get("transformer_options", {}), TIMESTEP: timestep}
    return {**extra_args, "model_options": options}


def _sigma_max(inner: Any) -> float:
    return float(inner.model_sampling.sigma_max)


def _timestep(inner: Any, sigma: float) -> float:
    return float(inner.model_sampling.timestep(torch.tensor(sigma)))


def bound(sampler: Any, noise: Noise, segment: int) -> Any:
    """The original sampler tied to a run's noise; any other as it is."""
    if getattr(sampler, "sampler_function", None) is not _sample:
        return sampler
    options = {**sampler.extra_options, NOISE_SOURCE: seeded_step_noise(noise, segment)}
    return comfy.samplers.KSAMPLER(_sample, options, sampler.inpaint_options)
