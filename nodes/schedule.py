"""The original's sampler and schedule as ComfyUI's SAMPLER and SIGMAS."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hallo3.sampling.samplers import SAMPLERS
from ..hallo3.settings import CACHE_BOUND
from . import inputs
from .host.model import config_of
from .host.original import original_sampler, original_sigmas

CATEGORY = "Hallo3/sampling"


class Hallo3OriginalSampler(io.ComfyNode):
    """SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3OriginalSampler",
            display_name="Hallo3 Original Sampler",
            category=CATEGORY,
            description=(
                "The sampler of the original Hallo3. With the sigmas of Hallo3 Original Schedule it takes "
                "the original's steps exactly; it accepts any others too."
            ),
            search_aliases=["hallo3", "dpmpp_2m_sde", "ddim", "sampler select"],
            inputs=[
                io.Combo.Input(
                    "sampler_name",
                    options=list(SAMPLERS),
                    default="dpmpp_2m_sde",
                    tooltip="dpmpp_2m_sde is the original's; ddim and dpmpp_2m add no noise on their way.",
                ),
                io.Float.Input(
                    "step_cache",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "An approximation, untested on real weights; 0 is off. Steps whose estimate can be "
                        "foretold this well are not computed: 0.1 is 10 % off."
                    ),
                ),
                io.Float.Input(
                    "step_cache_bound",
                    default=CACHE_BOUND,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Every fourth such step is computed all the same. Where it is further off than this, "
                        "the cache is switched off for the rest of the segment."
                    ),
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    "sampler", tooltip="For Hallo3 Extrapolate, Hallo3 Sampler, SamplerCustomAdvanced."
                )
            ],
        )

    @classmethod
    def execute(
        cls, sampler_name: str, step_cache: float = 0.0, step_cache_bound: float = CACHE_BOUND
    ) -> io.NodeOutput:
        return io.NodeOutput(original_sampler(sampler_name, step_cache, step_cache_bound))


class Hallo3OriginalSchedule(io.ComfyNode):
    """SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3OriginalSchedule",
            display_name="Hallo3 Original Schedule",
            category=CATEGORY,
            description="The noise schedule of the original Hallo3 as sigmas, for any sampler.",
            search_aliases=["hallo3", "sigmas", "scheduler", "zero snr"],
            inputs=[
                io.Model.Input("model", tooltip="The Hallo3 model that will be sampled."),
                inputs.steps(),
            ],
            outputs=[io.Sigmas.Output("sigmas", tooltip="The schedule, from pure noise to none.")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int) -> io.NodeOutput:
        config_of(model)
        return io.NodeOutput(original_sigmas(model, steps))
