"""The built-in model's VAE, speech and text encoder as ComfyUI's, whose loaders do not know their sizes.

The files hold half precision. All compute in float32: they are too small to gain from less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import comfy.audio_encoders.audio_encoders
import comfy.ldm.cogvideo.vae
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn

from ...hallo3.built_in import FOLDER
from ...hallo3.checkpoints.load import (
    load_strict,
    read_component_config,
    read_model_config,
    read_state,
    read_text_encoder_config,
)
from ...hallo3.checkpoints.locate import ModelFolder
from ...hallo3.config import SegmentConfig, VAEConfig
from ...hallo3.geometry import SPACE_FACTOR, TIME_FACTOR, latent_frames
from ...hallo3.media.audio import resample
from ...hallo3.speech.encoder import normalize, run_layers
from ...hallo3.speech.wav2vec2 import build_wav2vec2, split_wav2vec2
from ...hallo3.text_encoder import Tokenizer, build_t5, check_prompt, tie_embedding
from .progress import explain_errors, show_messages

FILES = ModelFolder(FOLDER)


class BuiltInVAE(comfy.sd.VAE):
    """ComfyUI's VAE object around CogVideoX's autoencoder at the built-in model's size."""

    def __init__(self, config: VAEConfig, state: dict[str, Tensor], disable_dynamic: bool = False) -> None:
        space = SPACE_FACTOR, SPACE_FACTOR
        self.upscale_ratio = (lambda frames: max(0, 1 + (frames - 1) * TIME_FACTOR), *space)
        self.downscale_ratio = (latent_frames, *space)
        self.upscale_index_formula = self.downscale_index_formula = (TIME_FACTOR, *space)
        self.latent_channels, self.latent_dim = config.latent_channels, 3
        self.output_channels, self.pad_channel_value, self.extra_1d_channel = 3, None, None
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.working_dtypes = [torch.float32]
        self.disable_offload = self.not_video = self.handles_tiling = False
        self.crop_input, self.size, self.format_encoded, self.audio_sample_rate = True, None, None, 44100

        def bytes_used(shape: Any, dtype: torch.dtype, scale: int) -> int:
            return 16 * config.block_out_channels[0] * math.prod(shape[2:]) * scale * mm.dtype_size(dtype)

        self.memory_used_decode = lambda shape, dtype: bytes_used(shape, dtype, TIME_FACTOR * SPACE_FACTOR**2)
        self.memory_used_encode = lambda shape, dtype: bytes_used(shape, dtype, 1)
        self.device, self.output_device = mm.vae_device(), mm.intermediate_device()
        self.vae_dtype = torch.float32
        with torch.device("meta"):
            self.first_stage_model = comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX(
                block_out_channels=config.block_out_channels,
                latent_channels=config.latent_channels,
                layers_per_block=config.layers_per_block,
                groups=config.norm_num_groups,
                eps=config.norm_eps,
            )
        load_strict(self.first_stage_model, state, "the built-in VAE")
        mm.archive_model_dtypes(self.first_stage_model)
        kinds = comfy.model_patcher
        kind = kinds.ModelPatcher if disable_dynamic else kinds.CoreModelPatcher
        self.patcher = kind(
            self.first_stage_model, load_device=self.device, offload_device=mm.vae_offload_device()
        )
        self.patcher.cached_patcher_init = (_load_vae_patcher, ())

    encode, decode, encode_tiled, decode_tiled = (
        explain_errors()(method)
        for method in (
            comfy.sd.VAE.encode,
            comfy.sd.VAE.decode,
            comfy.sd.VAE.encode_tiled,
            comfy.sd.VAE.decode_tiled,
        )
    )


class BuiltInSpeechEncoder(comfy.audio_encoders.audio_encoders.AudioEncoderModel):
    """ComfyUI's audio encoder object around a small wav2vec2; ``segment`` says what it is made for."""

    def __init__(self, config: dict[str, Any], state: dict[str, Tensor], segment: SegmentConfig) -> None:
        self.segment = segment
        self.load_device, self.dtype = mm.text_encoder_device(), torch.float32
        self.model_sample_rate = segment.sample_rate
        self.model: Any = build_wav2vec2(config)
        load_strict(self.model, state, "the built-in speech encoder")
        mm.archive_model_dtypes(self.model)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.model, load_device=self.load_device, offload_device=mm.text_encoder_offload_device()
        )

    @explain_errors()
    def encode_audio(self, audio: Tensor, sample_rate: int) -> dict[str, Any]:
        """For ComfyUI's AudioEncoderEncode: hidden states at the encoder's own rate."""
        mm.load_models_gpu([self.patcher])
        mono = resample(audio[0].float().mean(dim=0), sample_rate, self.model_sample_rate)
        parts = split_wav2vec2(self.model)
        hidden = parts.project(parts.extract(normalize(mono)[None].to(self.load_device)).transpose(1, 2))
        layers = parts.norm(hidden + parts.positions(hidden)), *run_layers(parts, hidden)
        return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "audio_samples": len(mono)}


def load_vae(disable_dynamic: bool = False) -> BuiltInVAE:
    config = read_model_config(FILES.find("transformer")).vae
    return BuiltInVAE(config, read_state(FILES.find("vae"), torch.float32), disable_dynamic)


def _load_vae_patcher(disable_dynamic: bool = False) -> Any:
    """For ComfyUI, which clones a dynamic patcher into another kind by loading its model again."""
    return load_vae(disable_dynamic).patcher


def load_speech_encoder() -> BuiltInSpeechEncoder:
    sizes = read_component_config(FILES.find("speech_encoder"), "speech_encoder")
    state = read_state(FILES.find("speech_encoder"), torch.float32)
    return BuiltInSpeechEncoder(sizes, state, read_model_config(FILES.find("transformer")).segment)


TOKENS_KEY = "hallo3"
TokenRows = list[list[tuple[Any, ...]]]
"""Rows of (token, weight); none for an empty prompt."""


class ComfyTokenizer:
    """ComfyUI's tokenizer object. Ignores weights such as ``(word:1.2)``."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    @explain_errors()
    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, Any]:
        """Tokens of a prompt, which is cut with a warning if it is too long."""
        if not text.strip():
            return {TOKENS_KEY: []}
        check_prompt(text)
        with show_messages():
            tokens: list[int] = self._tokenizer(text, self._length)[0].tolist()
        return {TOKENS_KEY: [[(token, 1.0, n)[: 2 + return_word_ids] for n, token in enumerate(tokens, 1)]]}

    def state_dict(self) -> dict[str, Tensor]:
        """Empty: a word's letters decide its number."""
        return {}


class ComfyT5(nn.Module):
    """ComfyUI's text encoder object around T5, without layers or projections to choose from."""

    dtypes = frozenset([torch.float32])

    def __init__(self, sizes: Mapping[str, Any], state: dict[str, Tensor], length: int) -> None:
        super().__init__()
        self.t5: Any = build_t5(sizes)
        load_strict(self.t5, tie_embedding(state), "the built-in text encoder")
        self._empty = length, int(sizes["d_model"])

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """No option applies to T5."""

    def reset_clip_options(self) -> None:
        """No option was set."""

    @explain_errors()
    def encode_token_weights(self, tokens: dict[str, TokenRows]) -> tuple[Tensor, None]:
        """Tokens -> embedding [1, length, text_dim], zeros for an empty prompt; no pooled output."""
        home, rows = mm.intermediate_device(), tokens[TOKENS_KEY]
        if not rows:
            return torch.zeros(1, *self._empty, device=home), None
        ids = torch.tensor([[token[0] for token in row] for row in rows])
        states: Tensor = self.t5(ids.to(next(self.t5.parameters()).device))
        return states.flatten(0, 1)[None].to(home), None


def load_text_encoder() -> Any:
    """A CLIP for CLIP Text Encode (Prompt) and similar nodes."""
    sizes, words = read_text_encoder_config(FILES.find("text_encoder"), FOLDER)
    length = read_model_config(FILES.find("transformer")).trunk.text_tokens
    tokenizer = ComfyTokenizer(words, length)
    network = ComfyT5(sizes, read_state(FILES.find("text_encoder"), torch.float32), length)
    target = SimpleNamespace(params={}, clip=lambda **_: network, tokenizer=lambda **_: tokenizer)
    return comfy.sd.CLIP(target, model_options={"dtype": torch.float32}, disable_dynamic=True)
