"""The built-in model's VAE and speech encoder as ComfyUI's: sizes that ComfyUI's own loaders do not know.

Their files hold half precision; both compute in float32 on every device, being too small to gain by less.
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
from ...hallo3.checkpoints.component_config import read_component_config, read_model_config
from ...hallo3.checkpoints.load import load_strict, read_state
from ...hallo3.checkpoints.locate import ModelFolder
from ...hallo3.config import SegmentConfig, VAEConfig
from ...hallo3.geometry import SPACE_FACTOR, TIME_FACTOR, latent_frames
from ...hallo3.media.audio import resample
from ...hallo3.speech.encoder import normalize
from ...hallo3.speech.wav2vec2 import build_wav2vec2
from ...hallo3.text_encoder import Tokenizer, build_t5, make_tokenizer, tie_embedding
from .progress import show_messages

FILES = ModelFolder(FOLDER)


class BuiltInVAE(comfy.sd.VAE):
    """ComfyUI's VAE object around CogVideoX's autoencoder at the built-in model's size."""

    def __init__(self, config: VAEConfig, state: dict[str, Tensor]) -> None:
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
        self.memory_used_decode = lambda shape, dtype: _bytes(config, shape, dtype, TIME_FACTOR * 64)
        self.memory_used_encode = lambda shape, dtype: _bytes(config, shape, dtype, 1)
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
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=mm.vae_offload_device()
        )


def _bytes(config: VAEConfig, shape: Any, dtype: torch.dtype, per_place: int) -> int:
    return 16 * config.block_out_channels[0] * math.prod(shape[2:]) * per_place * mm.dtype_size(dtype)


class BuiltInSpeechEncoder(comfy.audio_encoders.audio_encoders.AudioEncoderModel):
    """ComfyUI's audio encoder object around a small wav2vec2; ``segment`` says what it is made for."""

    def __init__(self, config: dict[str, Any], state: dict[str, Tensor], segment: SegmentConfig) -> None:
        self.segment = segment
        self.load_device, self.dtype = mm.text_encoder_device(), torch.float32
        self.model_sample_rate = segment.sample_rate
        self.model: Any = build_wav2vec2(config)
        load_strict(self.model, state, "the built-in speech encoder")
        mm.archive_model_dtypes(self.model)
        held = nn.Sequential(self.model)  # a patcher names its model's device; transformers' has a fixed one
        self.patcher = comfy.model_patcher.ModelPatcher(
            held, load_device=self.load_device, offload_device=mm.text_encoder_offload_device()
        )

    def encode_audio(self, audio: Tensor, sample_rate: int) -> dict[str, Any]:
        """What ComfyUI's own AudioEncoderEncode asks: hidden states at the encoder's own pace."""
        mm.load_models_gpu([self.patcher])
        mono = resample(audio[0].float().mean(dim=0), sample_rate, self.model_sample_rate)
        states = self.model(normalize(mono)[None].to(self.load_device), output_hidden_states=True)
        layers = tuple(states.hidden_states)
        return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "audio_samples": len(mono)}


def built_in_vae() -> BuiltInVAE:
    """The built-in model's VAE, in ComfyUI's own class: diffusers need not be installed."""
    return BuiltInVAE(read_model_config(FILES.transformer).vae, read_state(FILES.vae, torch.float32))


def built_in_speech_encoder() -> BuiltInSpeechEncoder:
    """The built-in model's speech encoder."""
    sizes = read_component_config(FILES.speech_encoder, "speech_encoder")
    state = read_state(FILES.speech_encoder, torch.float32)
    return BuiltInSpeechEncoder(sizes, state, read_model_config(FILES.transformer).segment)


TOKENS = "hallo3"
"""Key of what is tokenized: rows of (token, weight), none for an empty prompt."""
Rows = list[list[tuple[Any, ...]]]


class Words:
    """ComfyUI's tokenizer object. Weights, as in ``(word:1.2)``, are not read."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, Rows]:
        """A prompt's tokens; too long a prompt is cut, and the user told."""
        if not text.strip():
            return {TOKENS: []}
        with show_messages():
            found: list[int] = self._tokenizer(text, self._length)[0].tolist()
        return {TOKENS: [[(token, 1.0, n)[: 2 + return_word_ids] for n, token in enumerate(found, 1)]]}

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing to save: a word's letters decide its number."""
        return {}


class Network(nn.Module):
    """ComfyUI's text encoder object around T5; it has no layers or projections to choose from."""

    dtypes = frozenset([torch.float32])

    def __init__(self, sizes: Mapping[str, Any], state: dict[str, Tensor], length: int) -> None:
        super().__init__()
        self.t5: Any = build_t5(sizes)
        load_strict(self.t5, tie_embedding(state), "the built-in text encoder")
        self._empty = length, int(sizes["d_model"])

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Nothing of it concerns T5."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""

    def encode_token_weights(self, tokens: dict[str, Rows]) -> tuple[Tensor, None]:
        """Tokens -> embedding [1, length, text_dim], zeros for an empty prompt; nothing is pooled."""
        home, rows = mm.intermediate_device(), tokens[TOKENS]
        if not rows:
            return torch.zeros(1, *self._empty, device=home), None
        ids = torch.tensor([[token[0] for token in row] for row in rows])
        states: Tensor = self.t5(input_ids=ids.to(next(self.t5.parameters()).device)).last_hidden_state
        return states.flatten(0, 1)[None].to(home), None


def built_in_text_encoder() -> Any:
    """The built-in model's text encoder, a CLIP for CLIP Text Encode (Prompt) and its like."""
    files = ModelFolder(FOLDER)
    sizes, length = (
        read_component_config(files.text_encoder, "text_encoder"),
        read_model_config(files.transformer).trunk.text_tokens,
    )
    tokenizer = make_tokenizer(sizes.pop("tokenizer"), sizes["vocab_size"], FOLDER)
    network = Network(sizes, read_state(files.text_encoder, torch.float32), length)
    words = Words(tokenizer(), length)
    target = SimpleNamespace(params={}, clip=lambda **_: network, tokenizer=lambda **_: words)
    return comfy.sd.CLIP(target, model_options={"dtype": torch.float32}, disable_dynamic=True)
