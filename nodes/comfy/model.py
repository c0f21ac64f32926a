"""Hallo3 as a ComfyUI model: sampling, memory, LoRA and quantised weights are then ComfyUI's."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast
from weakref import WeakValueDictionary

import comfy.cli_args
import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor
from torch.nn import functional as F

from ...hallo3.config import Hallo3Config
from ...hallo3.errors import InputError, ShapeError
from ...hallo3.geometry import check_shape
from ...hallo3.identity import Identity
from ...hallo3.identity_file import fingerprint
from ...hallo3.model.embeddings import Rotary
from ...hallo3.model.layers import Layers
from ...hallo3.model.transformer import Hallo3Transformer
from .cues import choose_entries
from .layers import NativeKernels, convolve_in_pieces, parameters
from .people import make_masks, project_speech
from .progress import explain_errors

SEGMENT = "hallo3_segment"
"""Key of a conditioning entry's :class:`SegmentInput`."""
IDENTITY, AUDIO, LATENT_FRAMES = "hallo3_identity", "hallo3_windows", "hallo3_latent_frames"
"""Keyword arguments of the transformer."""
SILENT_TEXT = "silent text"
"""Name of the branch with text and without speech in Hallo3's guider."""
SILENT = ("negative", "empty_negative_prompt", SILENT_TEXT)
"""Names of branches without speech in guiders."""

Conditioning = list[list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInput:
    """Input of one guidance branch of a segment: speech windows [1, F, window, layers, channels], of P people
    [1, P, F, ...], and unscaled image latents [1, C, 1, h, w]. ``frame`` is its first new one of speech."""

    identity: Identity
    windows: Tensor
    image_latents: Tensor
    frame: int = 0

    def without_speech(self) -> SegmentInput:
        """Input of the unconditional branch."""
        return replace(self, windows=torch.zeros_like(self.windows))


class Shared(comfy.conds.CONDRegular):
    """A condition shared by a whole batch: never repeated, never concatenated."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> Shared:
        del batch_size, kwargs
        return self

    def can_concat(self, other: Any) -> bool:
        same_frames = isinstance(self.cond, tuple) and self.cond == other.cond
        return self.cond is other.cond or same_frames

    def concat(self, others: Any) -> Any:
        del others
        return self.cond

    def size(self) -> list[int]:
        return [1]


def check_conditioning(positive: Any) -> None:
    """Raise ``InputError`` unless it is None or texts with their options."""
    if positive is None or (isinstance(positive, list) and positive and all(map(_is_text, positive))):
        return
    raise InputError(
        "The positive conditioning cannot be used.",
        found=repr(positive)[:60],
        expected="a CONDITIONING from CLIP Text Encode (Prompt)",
        fix="connect one, or disconnect positive",
    )


def _is_text(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and [isinstance(each, dict) for each in entry] == [False, True]


def branches(
    positive: Conditioning | None, segment: SegmentInput, config: Hallo3Config
) -> tuple[Conditioning, Conditioning]:
    """Positive and negative conditioning of a segment. No prompt is zero text; the negative is zero text
    without speech (facts 6). Raises ``InputError`` for text of another length or width."""
    zero: Conditioning = [[torch.zeros(1, config.trunk.text_tokens, config.trunk.text_dim), {}]]
    text: Conditioning = zero
    check_conditioning(positive)
    if positive is not None:
        fps = config.segment.fps
        chosen = choose_entries(positive, [extras for _, extras in positive], segment.frame, fps)
        text = [[cut_text(t, config), extras] for t, extras in chosen] or zero
    silent = segment.without_speech()
    return (
        [[t, {**extras, SEGMENT: segment}] for t, extras in text],
        [[t, {**extras, SEGMENT: silent}] for t, extras in zero],
    )


def cut_text(text: Any, config: Hallo3Config) -> Tensor:
    """Cut text [B, M, text_dim] to the model's tokens; ComfyUI's T5 only pads. Raises ``InputError``."""
    trunk, shape = config.trunk, tuple(text.shape) if isinstance(text, Tensor) else ()
    if len(shape) != 3 or shape[2] != trunk.text_dim or shape[1] < trunk.text_tokens:
        raise InputError(
            "The positive conditioning does not fit this model.",
            found=f"text embeddings {list(text.shape)}" if isinstance(text, Tensor) else "no text embeddings",
            expected=f"at least {trunk.text_tokens} tokens of {trunk.text_dim} numbers",
            fix="use T5-XXL (Load CLIP, type cogvideox); for the built-in model, the clip of its loader",
        )
    return text[:, : trunk.text_tokens]


PREVIEW_FACTORS = Path(__file__).with_name("preview_factors.json")
"""By a configuration's name: factors [C][3] and bias [3] of latent previews."""
TIMESTEP = "hallo3_timestep"
"""Transformer option with the timestep of the original's schedule."""
OVERRIDE = "optimized_attention_override"
"""Transformer option with which nodes replace ComfyUI's attention."""

_options: ContextVar[dict[str, Any] | None] = ContextVar("hallo3_transformer_options", default=None)
_spare: ContextVar[int] = ContextVar("hallo3_spare_memory", default=0)


@contextmanager
def leave_free(count: int) -> Generator[None]:
    """Have ComfyUI leave this many bytes of the device free where it loads the model in the block."""
    token = _spare.set(count)
    try:
        yield
    finally:
        _spare.reset(token)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ComfyUI's selected attention, or what a node replaces it with."""
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
    """Name of ComfyUI's selected attention or, first, of what transformer ``options`` replace it with."""
    selected = _name(optimized_attention)
    override = (options or {}).get(OVERRIDE)
    return selected if override is None else f"{_name(override)}, with which a node replaces {selected}"


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


class DeviceIdentity:
    """What the transformer reads of an identity, on its device while a segment is sampled."""

    def __init__(self, identity: Identity, like: Tensor) -> None:
        self.origin = identity
        self.face_embedding = identity.face_embedding.to(like)
        self.people = identity.people
        self.reference_features = tuple(feature.to(like) for feature in identity.reference_features)


class NativeTransformer(Hallo3Transformer):
    """Conditions are inputs of each call, and projected when a block reads them."""

    def __init__(self, config: Hallo3Config, dtype: torch.dtype, device: Any, operations: Any) -> None:
        layers = Layers(
            ops=operations,
            attention=attention,
            kernels=NativeKernels(),
            parameters=parameters,
            device=device,
            dtype=dtype,
        )
        super().__init__(config, layers)
        self.dtype = dtype
        convolution = self.audio_proj.conv1
        vars(convolution)["forward"] = partial(convolve_in_pieces, convolution)
        self._rotary: tuple[tuple[Any, ...], Rotary] | None = None

    def rotary(self, frames: int, like: Tensor) -> Rotary:
        """Made on the CPU, so kept for the next pass."""
        if torch.compiler.is_compiling():
            return super().rotary(frames, like)
        key = frames, like.shape[1], like.dtype, like.device, torch.is_inference_mode_enabled()
        if self._rotary is None or self._rotary[0] != key:
            self._rotary = key, super().rotary(frames, like)
        return self._rotary[1]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (ComfyUI passes these names)
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        transformer_options: dict[str, Any],
        *,
        hallo3_identity: Identity | DeviceIdentity,
        hallo3_windows: Tensor,
        hallo3_latent_frames: Sequence[int] | None = None,
        **_: Any,
    ) -> Tensor:
        """Noisy and image latents [B, 2C, T, H, W], timesteps [B], text [B, M, text_dim], speech windows
        or audio tokens -> velocity."""
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
        identity: Identity | DeviceIdentity,
        windows: Tensor,
        latent_frames: Sequence[int] | None,
    ) -> Tensor:
        """The forward pass inside the wrappers of other nodes."""
        channels, frames = self.config.latent_channels, x.shape[2]
        expected = len(latent_frames) if latent_frames is not None else self.latent.frames
        masks, embedding = make_masks(identity, self.latent, x)
        several = masks is not None
        speech = self.latent.frames if windows.ndim == 4 + several else self.window_shape[0]
        if frames != expected or windows.shape[1 + several] != speech:
            raise ShapeError(
                "The latent video does not have a segment's length.",
                found=f"{frames} latent frames, speech for {expected}",
                expected=f"{self.latent.frames} latent frames, {self.window_shape[0]} video frames",
                fix="sample the LATENT output of Hallo3 Segment Conditioning",
            )
        if (original := transformer_options.get(TIMESTEP)) is not None:
            timesteps = torch.full_like(timesteps, original)
        conditions = self.conditions(
            identity.reference_features, embedding, context, windows, latent_frames, masks
        )
        modulation = self.modulate(timesteps, x, on_access=True)
        return Hallo3Transformer.forward(self, x[:, :channels], x[:, channels:], modulation, conditions)


EXACT_ATTENTIONS = tuple(
    f"attention_{name}" for name in ("basic", "flash", "pytorch", "split", "sub_quad", "xformers")
)
"""ComfyUI's attentions that differ by rounding only."""


def approximations() -> tuple[str, ...]:
    """What ComfyUI approximates: an attention that is not known to be exact, and ``--fast``, whose "autotune"
    only chooses kernels. A node that replaces the attention is part of the workflow, and not named here."""
    selected = attention_in_use()
    attention = () if selected in EXACT_ATTENTIONS else (selected,)
    return (*attention, *(f"--fast {name}" for name in sorted(_fast() - {"autotune"})))


def _fast() -> set[str]:
    """The values of ``--fast``; "everything" without values."""
    values: Any = getattr(getattr(comfy.cli_args, "args", None), "fast", None)
    if not isinstance(values, Iterable) or isinstance(values, str):
        return {"everything" if values is True else str(values)} if values else set()
    return {str(getattr(each, "value", each)) for each in cast("Iterable[Any]", values)}


class LatentFormat(comfy.latent_formats.LatentFormat):
    """CogVideoX latents: unscaled in ComfyUI, multiplied by the scaling factor in the model."""

    latent_dimensions = 3
    temporal_downscale_ratio = 4

    def __init__(self, config: Hallo3Config) -> None:
        self.latent_channels = config.vae.latent_channels
        self.scale_factor = config.vae.scaling_factor
        preview = json.loads(PREVIEW_FACTORS.read_text(encoding="utf-8")).get(config.name, {})
        self.latent_rgb_factors, self.latent_rgb_factors_bias = preview.get("factors"), preview.get("bias")


class ModelConfig(comfy.supported_models_base.BASE):
    sampling_settings: ClassVar = {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "beta_schedule": "linear",
        "zsnr": True,
    }
    supported_inference_dtypes: ClassVar = [torch.bfloat16, torch.float16, torch.float32]
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    memory_usage_factor = 1.05
    """1.54 GB per sample at full size in 16 bits. Counted on the meta device, a pass with eager kernels, as
    LoRA needs, takes 1.11 GB, of two samples 2.23 GB; reference features take 0.35 GB, and ComfyUI casts two
    feed-forward matrices (75 MB each) beside them. Not measured on a GPU."""

    def __init__(self, config: Hallo3Config) -> None:
        self.latent_format = lambda: LatentFormat(config)
        super().__init__({"config": config})

    def get_model(self, state_dict: Any = None, prefix: str = "", device: Any = None) -> Hallo3Model:
        del state_dict, prefix
        return Hallo3Model(self, device)


class Hallo3Model(comfy.model_base.QwenImage):
    """v-prediction over a zero-terminal-SNR schedule, conditioned by a segment's speech and an identity.

    Only the base class' LoRA names are used: for ``QwenImage`` ComfyUI maps diffusers' names, with and
    without ``transformer.``, to parameters of the same name, as ours are (docs/decisions/004).
    """

    def __init__(self, model_config: ModelConfig, device: Any = None) -> None:
        comfy.model_base.BaseModel.__init__(
            self, model_config, comfy.model_base.ModelType.V_PREDICTION, device, NativeTransformer
        )
        self.config: Hallo3Config = model_config.unet_config["config"]
        self._sent: WeakValueDictionary[tuple[Any, ...], DeviceIdentity] = WeakValueDictionary()

    def get_dynamic_vram__units(self) -> tuple[list[Any], list[Any]]:
        """What ComfyUI's dynamic memory keeps in VRAM first and last: blocks are used in every pass, the
        audio projection once per segment."""
        network = self.diffusion_model
        return list(network.transformer_blocks), [network.audio_proj]

    def memory_required(self, *values: Any, **named: Any) -> float:
        return super().memory_required(*values, **named) + _spare.get()

    @explain_errors()
    def apply_model(self, *values: Any, **named: Any) -> Any:
        """As ComfyUI's; not around the network itself, which may be compiled."""
        return comfy.model_base.BaseModel.apply_model(self, *values, **named)

    def concat_cond(self, **kwargs: Any) -> Tensor:
        """Image latents [B, C, T, h, w], scaled, zeros after their frames."""
        noise, segment = kwargs["noise"], _segment(kwargs)
        check_shape(tuple(noise.shape[-2:]), tuple(segment.image_latents.shape[-2:]), "The latent video")
        known = self.process_latent_in(segment.image_latents.to(noise))
        padded = F.pad(known, (0, 0, 0, 0, 0, noise.shape[2] - known.shape[2]))
        return padded.expand(noise.shape[0], -1, -1, -1, -1)

    @explain_errors()
    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """All inputs but the noisy latents. Reference features are sent, and speech is projected, once per
        segment, except where a gradient may be needed. Raises ``InputError`` for conditioning without a
        segment."""
        segment = _segment(kwargs)
        identity: Any = segment.identity
        windows = segment.windows
        if not torch.is_grad_enabled():
            like = torch.empty(0, dtype=self.get_dtype_inference(), device=kwargs["device"])
            project = self.diffusion_model.audio_proj
            identity = self._send(identity, like)
            windows = project_speech(project, windows.to(like))
        return {
            "c_concat": comfy.conds.CONDNoiseShape(self.concat_cond(**kwargs)),
            "c_crossattn": comfy.conds.CONDRegular(cut_text(kwargs.get("cross_attn"), self.config)),
            IDENTITY: Shared(identity),
            AUDIO: comfy.conds.CONDRegular(windows),
            LATENT_FRAMES: Shared(None),
        }

    def _send(self, identity: Identity, like: Tensor) -> DeviceIdentity:
        """The same for all branches."""
        key = id(identity), like.dtype, like.device
        if (sent := self._sent.get(key)) is None:
            sent = self._sent[key] = DeviceIdentity(identity, like)
        return sent

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, Any]:
        """None: ``memory_usage_factor`` counts the reference features."""
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
        """A context window selects its latent frames; the audio projection needs the whole segment."""
        del x_in, device, retain_index_list
        if cond_key == LATENT_FRAMES:
            anchor = getattr(window, "causal_anchor_index", None)
            before = [anchor] if anchor is not None and anchor >= 0 else []
            return Shared((*before, *window.index_list))
        return cond_value if cond_key in (AUDIO, IDENTITY) else None


def _segment(kwargs: dict[str, Any]) -> SegmentInput:
    if (segment := kwargs.get(SEGMENT)) is None:
        raise InputError(
            "This conditioning was not made for Hallo3.",
            found="conditioning without an identity and speech",
            expected="the output of Hallo3 Segment Conditioning",
            fix="connect them to the sampler",
        )
    return segment


def model_fingerprint(model: Any) -> Tensor:
    """Fingerprint of a Hallo3 MODEL, whatever its precision."""
    weights = dict(model.model.diffusion_model.named_parameters())
    return fingerprint(lambda name: weights[name])


def config_of(model: Any, what: str = "model") -> Hallo3Config:
    """Raises ``InputError`` if the MODEL is not Hallo3's."""
    inner = getattr(model, "model", None)
    if not isinstance(inner, Hallo3Model):
        raise InputError(
            f"The {what} is not Hallo3's.",
            found=f"a {type(inner).__name__} model",
            expected="a MODEL from Load Hallo3 Model or Load Hallo3 Built-in",
            fix="connect one of these, or a node that changes their MODEL (LoRA, EasyCache, ...)",
        )
    return inner.config
