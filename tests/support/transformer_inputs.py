"""Everything a forward pass needs, drawn."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.transformer import Hallo3Transformer, RunConditions, SegmentConditions
from hallo3.noise import make_generator

STEPS = torch.tensor([999.0, 499.0])


def draw(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(make_generator(name).standard_normal(shape, dtype="float32"))


class Inputs:
    """Of a network; ``prepare`` may be asked for weights on access."""

    def __init__(self, dit: Hallo3Transformer) -> None:
        trunk, grid = dit.config, dit.latent
        size = 1, grid.tokens_per_frame, trunk.width
        self.features = [draw(f"feature {i}", *size) for i in range(trunk.layers)]
        self.face = draw("face", 1, cast(int, dit.face_proj.proj.in_features))
        self.prompt = draw("prompt", 1, trunk.text_tokens, trunk.text_dim)
        self.windows = draw("windows", 1, *dit.window_shape)
        self.noisy = draw("noisy", 1, trunk.latent_channels, *grid)
        self.image = draw("image", 1, trunk.latent_channels, *grid)

    def prepare_run(self, dit: Hallo3Transformer, **access: Any) -> RunConditions:
        return dit.prepare(self.features, self.face, STEPS, **access)

    def prepare(self, dit: Hallo3Transformer, **access: Any) -> tuple[RunConditions, SegmentConditions]:
        run, dtype = self.prepare_run(dit, **access), next(dit.parameters()).dtype
        audio = dit.encode_audio(self.windows.to(dtype), on_access=access.get("on_access", False))
        text = dit.encode_text(self.prompt.to(dtype))
        return run, SegmentConditions(text=text, audio=audio, image_latents=self.image.to(dtype))

    def predict(self, dit: Hallo3Transformer, passes: str, **access: Any) -> Callable[[int], Tensor]:
        run, segment = self.prepare(dit, **access)
        return partial(GUIDANCE_PASSES[passes](dit, run, segment), self.noisy.to(segment.text.dtype))
