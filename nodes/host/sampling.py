"""Any segment of a run through ComfyUI's sampling: guider, hooks, previews and interrupt are its own."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...hallo3.config import Hallo3Config
from ...hallo3.errors import InputError
from ...hallo3.noise import Noise, Purpose
from .conditioning import SEGMENT, SILENT, Conditioning, SegmentInput, branches, fitting_text
from .model import config_of
from .original import bound, check_sigmas, original_sampler, original_sigmas
from .transformer import attention_in_use


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a run is sampled. Whatever is None is the original's; ``guider`` brings its own model, guidance
    and text. Raises ``InputError`` for a model that is not Hallo3's and for sigmas that cannot be stepped
    through."""

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
                do="connect one of these, or disconnect guider",
            )
        config_of(self.patcher, "model" if self.guider is None else "guider's model")
        if self.sampler is not None and not hasattr(self.sampler, "sample"):
            raise InputError(
                "The sampler cannot be used.",
                found=repr(self.sampler),
                expected="a SAMPLER from Hallo3 Original Sampler, KSamplerSelect or the like",
                do="connect one of these, or disconnect sampler",
            )
        if self.positive is not None and not _is_conditioning(self.positive):
            raise InputError(
                "The positive conditioning cannot be used.",
                found=repr(self.positive)[:60],
                expected="a CONDITIONING from CLIP Text Encode (Prompt)",
                do="connect one, or disconnect positive",
            )
        if self.sigmas is not None:
            check_sigmas(self.sigmas)

    @property
    def patcher(self) -> Any:
        """The MODEL that is sampled."""
        return self.model if self.guider is None else self.guider.model_patcher

    @property
    def config(self) -> Hallo3Config:
        """Its configuration."""
        return config_of(self.patcher)

    def schedule(self) -> Tensor:
        """The sigmas of a run: asked once, used for all of its segments."""
        return original_sigmas(self.patcher, self.steps) if self.sigmas is None else self.sigmas

    def tell_attention(self) -> None:
        """Say in the log, once a run, which attention computes it."""
        options = self.patcher.model_options.get("transformer_options")
        logging.info("Hallo3: attention by %s", attention_in_use(options))

    def sample(
        self, heard: SegmentInput, sigmas: Tensor, noise: Noise, seed: int, segment: int, callback: Any
    ) -> Tensor:
        """Latents [1, C, T, h, w], unscaled, of a segment. ``callback`` is called after every step.

        Raises ``InputError`` if sampling gives values that are not numbers.
        """
        config = self.config
        shape = (1, config.trunk.latent_channels, *config.segment.shape.latent)
        start = noise(Purpose.START, segment, 0, shape)
        sampler = self.sampler or original_sampler(config.defaults.sampler)
        latents = self._guider(heard).sample(
            start,
            torch.zeros_like(start),
            bound(sampler, noise, segment),
            sigmas,
            callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=segment_seed(seed, segment),
        )
        if not bool(latents.isfinite().all()):
            raise InputError(
                "Sampling gave values that are not numbers.",
                found=f"NaN or infinity in segment {segment}",
                expected="finite latents",
                do="try other weights or weight_dtype, and without LoRA, ModelSampling and guider nodes",
            )
        return latents.to(mm.intermediate_device(), mm.intermediate_dtype())

    def _guider(self, heard: SegmentInput) -> Any:
        """ComfyUI's own guider, or a copy of the user's that hears this segment. A user's guider keeps its
        texts. Conditioning that was silent stays so; of any other, what a guider calls negative."""
        if self.guider is None:
            made = comfy.samplers.CFGGuider(self.model)
            made.set_conds(*branches(self.positive, heard, self.config))
            made.set_cfg(self.guidance_scale)
            return made
        mine = copy.copy(self.guider)
        mine.original_conds = {
            name: [self._hearing(name, entry, heard) for entry in entries]
            for name, entries in self.guider.original_conds.items()
        }
        return mine

    def _hearing(self, name: str, entry: dict[str, Any], heard: SegmentInput) -> dict[str, Any]:
        before: SegmentInput | None = entry.get(SEGMENT)
        silent = name in SILENT if before is None else not bool(before.windows.any())
        text = fitting_text(entry.get("cross_attn"), self.config)
        return {**entry, "cross_attn": text, SEGMENT: heard.silent if silent else heard}


def segment_seed(seed: int, segment: int) -> int:
    """The seed that ComfyUI's samplers draw from: another one for every segment of a run."""
    return int.from_bytes(blake2b(f"{seed}|{segment}".encode(), digest_size=8).digest(), "little") >> 1


def _is_conditioning(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(len(entry) == 2 for entry in value)
