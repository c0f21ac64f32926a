"""Strengths of text and voice as a guider of ComfyUI (docs/decisions/020-strengths.md)."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...hallo3.sampling.samplers import CONDITIONAL, TEXT, UNCONDITIONAL, Guidance, changed_steps
from ...hallo3.sampling.strengths import Strengths
from .model import SEGMENT, SILENT_TEXT, Conditioning, check_conditioning, config_of

NAMES = {UNCONDITIONAL: "negative", TEXT: SILENT_TEXT, CONDITIONAL: "positive"}
"""Of the branches' conditions in a guider."""


class StrengthGuider(comfy.samplers.CFGGuider):
    """Predicts of a segment's branches those that the strengths need in a step. Without speech are the text
    alone and, with zero text, the unconditional branch."""

    def __init__(self, model: Any, strengths: Strengths, positive: Conditioning | None = None) -> None:
        super().__init__(model)
        self.strengths = strengths
        self._guidance: list[Guidance] = []
        self._sigmas: list[float] = []
        trunk = config_of(model).trunk
        zero: Conditioning = [[torch.zeros(1, trunk.text_tokens, trunk.text_dim), {}]]
        check_conditioning(positive)
        self.set_conds(positive or zero, zero)

    def set_conds(self, positive: Any, negative: Any) -> None:
        """Conditions with a segment's speech, or texts that Hallo3's nodes will give one."""
        silent = [[text, _without_speech(extras)] for text, extras in positive]
        segments = [{SEGMENT: extras[SEGMENT]} for _, extras in silent if SEGMENT in extras]
        negative = [[text, {**(segments[0] if segments else {}), **extras}] for text, extras in negative]
        self.inner_set_conds({"positive": positive, SILENT_TEXT: silent, "negative": negative})

    def guidance(self, steps: int) -> list[Guidance]:
        """Of every step of the segment in the conditions."""
        entries: list[dict[str, Any]] = self.original_conds["positive"]
        segment = entries[0].get(SEGMENT)
        seconds = segment.frame / config_of(self.model_patcher).segment.fps if segment is not None else 0.0
        text = any(bool(entry["cross_attn"].any()) for entry in entries)
        return [self.strengths.at(step, steps, seconds, text=text) for step in range(steps)]

    def changes(self, steps: int) -> list[int]:
        """Steps at which guidance changes."""
        return changed_steps(self.guidance(steps)) + self.strengths.jumps(steps)

    def sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **named: Any
    ) -> Tensor:
        self._sigmas = sigmas.tolist()
        self._guidance = self.guidance(len(self._sigmas) - 1)
        return super().sample(noise, latent_image, sampler, sigmas, *args, **named)

    def predict_noise(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The denoised estimate, as ComfyUI's guiders give it. A sampler's evaluation between two steps
        belongs to the earlier one."""
        del seed
        options = model_options or {}
        sigma = float(timestep.flatten()[0])
        step = sum(each >= sigma * (1 - 1e-6) for each in self._sigmas[:-1]) - 1
        branches, strengths = self._guidance[max(step, 0)]
        conds = [self.conds[NAMES[each]] for each in branches]
        found = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, options)
        scale, last = (strengths[0], 1) if strengths else (1.0, 0)
        result = comfy.samplers.cfg_function(
            self.inner_model,
            found[last],
            found[0],
            scale,
            x,
            timestep,
            model_options=options,
            cond=conds[last],
            uncond=conds[0],
        )
        for index in range(1, len(strengths)):
            result = result + strengths[index] * (found[index + 1] - found[index])
        return result


def _without_speech(extras: dict[str, Any]) -> dict[str, Any]:
    segment = extras.get(SEGMENT)
    return extras if segment is None else {**extras, SEGMENT: segment.without_speech()}
