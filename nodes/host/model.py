"""Hallo3 as one of ComfyUI's models: sampling, memory, LoRA and quantised weights are then ComfyUI's."""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch
from torch import Tensor
from torch.nn import functional as F

from ...hallo3.config import Hallo3Config
from ...hallo3.errors import InputError
from ...hallo3.fingerprint import fingerprint
from ...hallo3.shapes import expect
from .conditioning import AUDIO, IDENTITY, LATENT_FRAMES, SEGMENT, SegmentInput, Shared, fitting_text
from .previews import rgb_factors
from .transformer import NativeTransformer


class LatentFormat(comfy.latent_formats.LatentFormat):
    """CogVideoX latents: ComfyUI keeps them unscaled, the model multiplies by the scaling factor."""

    latent_dimensions = 3
    temporal_downscale_ratio = 4

    def __init__(self, config: Hallo3Config) -> None:
        self.latent_channels = config.vae.latent_channels
        self.scale_factor = config.vae.scaling_factor
        self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb_factors(config.name)


class ModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI asks of a model before it is built."""

    sampling_settings: ClassVar = {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "beta_schedule": "linear",
        "zsnr": True,
    }
    supported_inference_dtypes: ClassVar = [torch.bfloat16, torch.float16, torch.float32]
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    memory_usage_factor = 0.9
    """1.32 GB a sample at full size in 16 bits. Counted operation by operation on the meta device, a pass
    with torch's own elementwise kernels, as it is computed here, holds 1.14 GB, two samples at once 2.27 GB;
    ComfyUI casts a feed-forward's matrix (75 MB), and the next one, beside it. Not measured on a GPU."""

    def __init__(self, config: Hallo3Config) -> None:
        self.latent_format = lambda: LatentFormat(config)
        super().__init__({"config": config})

    def get_model(self, state_dict: Any = None, prefix: str = "", device: Any = None) -> Hallo3Model:
        """The model of this configuration, without its weights."""
        del state_dict, prefix
        return Hallo3Model(self, device)


class Hallo3Model(comfy.model_base.QwenImage):
    """v-prediction over a zero-terminal-SNR schedule, conditioned by a segment's speech and an identity.

    The base class is ComfyUI's way to know LoRA names: for ``QwenImage`` it maps diffusers' names, with
    and without ``transformer.``, to parameters of the same name, which ours are. Nothing else of it is
    used (docs/decisions/004).
    """

    def __init__(self, model_config: ModelConfig, device: Any = None) -> None:
        comfy.model_base.BaseModel.__init__(
            self, model_config, comfy.model_base.ModelType.V_PREDICTION, device, NativeTransformer
        )
        self.config: Hallo3Config = model_config.unet_config["config"]

    def concat_cond(self, **kwargs: Any) -> Tensor:
        """Image latents [B, C, T, h, w], scaled, zeros after the frames that are known."""
        noise, segment = kwargs["noise"], _segment(kwargs)
        expect(tuple(noise.shape[-2:]), tuple(segment.image_latents.shape[-2:]), "The latent video")
        known = self.process_latent_in(segment.image_latents.to(noise))
        missing = noise.shape[2] - known.shape[2]
        return F.pad(known, (0, 0, 0, 0, 0, missing)).expand(noise.shape[0], -1, -1, -1, -1)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Everything the transformer reads besides the noisy latents. Raises ``InputError`` for foreign
        conditioning."""
        segment = _segment(kwargs)
        return {
            "c_concat": comfy.conds.CONDNoiseShape(self.concat_cond(**kwargs)),
            "c_crossattn": comfy.conds.CONDRegular(fitting_text(kwargs.get("cross_attn"), self.config)),
            IDENTITY: Shared(segment.identity),
            AUDIO: comfy.conds.CONDRegular(segment.windows),
            LATENT_FRAMES: Shared(None),
        }

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, Any]:
        """Reference features stay where they are and are sent to the device block by block."""
        del kwargs
        return {}

    def resize_cond_for_context_window(
        self,
        cond_key: str,
        cond_value: Any,
        window: Any,
        x_in: Tensor,
        device: Any,
        retain_index_list: Any = (),
    ) -> Any:
        """A context window hears its own latent frames; the audio projection needs the whole segment's."""
        del x_in, device, retain_index_list
        if cond_key == LATENT_FRAMES:
            anchor = getattr(window, "causal_anchor_index", None)
            before = [anchor] if anchor is not None and anchor >= 0 else []
            return Shared((*before, *window.index_list))
        return cond_value if cond_key in (AUDIO, IDENTITY) else None


def _segment(kwargs: dict[str, Any]) -> SegmentInput:
    segment = kwargs.get(SEGMENT)
    if segment is None:
        raise InputError(
            "This conditioning was not made for Hallo3.",
            found="conditioning without an identity and speech",
            expected="what Hallo3 Segment Conditioning puts out",
            do="connect its positive and negative to the sampler",
        )
    return segment


def fingerprint_of(model: Any) -> Tensor:
    """The fingerprint of a MODEL of Hallo3's, whatever its weights are stored in."""
    weights = dict(model.model.diffusion_model.named_parameters())
    return fingerprint(lambda name: weights[name])


def config_of(model: Any, what: str = "model") -> Hallo3Config:
    """The configuration of a MODEL. Raises ``InputError`` if it is another kind of model."""
    inner = getattr(model, "model", None)
    if not isinstance(inner, Hallo3Model):
        raise InputError(
            f"The {what} is not Hallo3's.",
            found=f"a {type(inner).__name__} model",
            expected="a MODEL from Load Hallo3 Model or Load Hallo3 Built-in",
            do="connect one of these, or a node that changes their MODEL (LoRA, EasyCache, ...)",
        )
    return inner.config
