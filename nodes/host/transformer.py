"""Hallo3's transformer behind the call that ComfyUI makes of a diffusion model.

B samples, T latent frames, M text tokens; see :mod:`hallo3.model.transformer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import comfy.ops
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ...hallo3.config import Hallo3Config
from ...hallo3.errors import ShapeError
from ...hallo3.identity import Identity
from ...hallo3.model.transformer import Hallo3Transformer
from ...hallo3.ops import Layers

TIMESTEP = "hallo3_timestep"
"""Entry of the transformer options by which the original's schedule names its own timestep."""
OVERRIDE = "optimized_attention_override"
"""Entry of the transformer options by which nodes put another attention in the place of ComfyUI's."""

_options: ContextVar[dict[str, Any] | None] = ContextVar("hallo3_transformer_options", default=None)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ComfyUI's selected attention, with whatever a node has put in its place for this call."""
    return optimized_attention(
        q,
        k,
        v,
        heads=q.shape[1],
        skip_reshape=True,
        skip_output_reshape=True,
        transformer_options=_options.get(),
    )


def attention_in_use(options: Mapping[str, Any] | None = None) -> str:
    """The name of the attention that ComfyUI has selected and, if transformer ``options`` put another in its
    place, of that one first."""
    selected = _name(optimized_attention)
    override = (options or {}).get(OVERRIDE)
    if override is None:
        return selected
    return f"{_name(override)}, which a node has put in the place of {selected}"


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def parameters(layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias as ComfyUI computes with them: cast, patched by LoRA, from wherever they
    are."""
    return comfy.ops.cast_bias_weight(layer, like)


class NativeTransformer(Hallo3Transformer):
    """Raw conditions in, velocity out; what a run holds constant is projected when a block reads it."""

    def __init__(self, config: Hallo3Config, dtype: torch.dtype, device: Any, operations: Any) -> None:
        layers = Layers(
            ops=operations, attention=attention, parameters=parameters, device=device, dtype=dtype
        )
        super().__init__(config, layers)
        self.dtype = dtype

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (parameters keep their names so)
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        transformer_options: dict[str, Any],
        *,
        hallo3_identity: Identity,
        hallo3_windows: Tensor,
        hallo3_latent_frames: Sequence[int] | None = None,
        **_: Any,
    ) -> Tensor:
        """Noisy and image latents [B, 2C, T, H, W], timesteps [B] and text [B, M, text_dim] -> velocity."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self.velocity, self, wrappers)
        token = _options.set(transformer_options)
        try:
            return executor.execute(
                x,
                timesteps,
                context,
                transformer_options,
                identity=hallo3_identity,
                windows=hallo3_windows,
                latent_frames=hallo3_latent_frames,
            )
        finally:
            _options.reset(token)

    def velocity(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        transformer_options: dict[str, Any],
        *,
        identity: Identity,
        windows: Tensor,
        latent_frames: Sequence[int] | None,
    ) -> Tensor:
        """What :meth:`forward` computes, inside the wrappers of other nodes."""
        channels, frames = self.config.latent_channels, x.shape[2]
        self._check_frames(frames, windows, latent_frames)
        told = transformer_options.get(TIMESTEP)
        if told is not None:
            timesteps = torch.full_like(timesteps, told)
        conditions = self.conditions(
            identity.reference_features, identity.face_embedding, context, windows, latent_frames
        )
        modulation = self.modulate(timesteps, x, on_access=True)
        return Hallo3Transformer.forward(self, x[:, :channels], x[:, channels:], modulation, conditions)

    def _check_frames(self, frames: int, windows: Tensor, latent_frames: Sequence[int] | None) -> None:
        heard = len(latent_frames) if latent_frames is not None else self.latent.frames
        if frames != heard or windows.shape[1] != self.window_shape[0]:
            raise ShapeError(
                "The latent video does not have a segment's length.",
                found=f"{frames} latent frames, speech for {heard}",
                expected=f"{self.latent.frames} latent frames, {self.window_shape[0]} video frames",
                do="sample the LATENT that Hallo3 Segment Conditioning puts out",
            )
