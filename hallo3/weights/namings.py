"""The names under which the parts of the model are published, as data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..parts import ARE
from .keymap import KeyMap, Rule, drop, rename
from .maps import REFERENCE, REFERENCE_PREFIX, TRANSFORMER, TRANSFORMER_PREFIX, VAE, VAE_PREFIX

WRAPPERS = ("", "module.", "_orig_mod.", "module._orig_mod.")
"""What training programs put before every name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a file names the tensors of a part: one of ``prefixes``, then names that ``keys`` maps to ours.

    A file uses it if all ``marks`` are there and none of ``strangers``.
    """

    part: str
    origin: str
    prefixes: tuple[str, ...]
    keys: KeyMap
    marks: tuple[str, ...]
    strangers: tuple[str, ...] = ()

    @property
    def mapped(self) -> bool:
        """Whether the names differ from ours by more than a prefix."""
        return any(rule.source != "{rest}" for rule in self.keys.rules)

    def prefix_in(self, names: Collection[str]) -> str | None:
        """The prefix that these names have, or None where they are named otherwise."""
        for prefix in (wrapper + prefix for wrapper in WRAPPERS for prefix in self.prefixes):
            if all(prefix + mark in names for mark in self.marks) and not any(
                prefix + stranger in names for stranger in self.strangers
            ):
                return prefix
        return None


def _as_they_are(part: str) -> KeyMap:
    return KeyMap(ARE[part], (rename("{rest}", "{rest}"),))


_T5_TIE: Rule = drop("encoder.embed_tokens.weight", "the same table as shared.weight")
_T5 = KeyMap(
    ARE["text_encoder"],
    (
        rename("shared.weight", "shared.weight"),
        _T5_TIE,
        rename("encoder.block.{rest}", "encoder.block.{rest}"),
        rename("encoder.final_layer_norm.weight", "encoder.final_layer_norm.weight"),
        drop("decoder.{rest}", "T5's decoder is not used"),
        drop("lm_head.weight", "T5's decoder is not used"),
    ),
)
_GGUF_BLOCK, _T5_BLOCK = "enc.blk.{i}", "encoder.block.{i}.layer"
_T5_ATTENTION = f"{_T5_BLOCK}.0.SelfAttention"
_T5_GGUF = KeyMap(
    ARE["text_encoder"],
    (
        rename("token_embd.weight", "shared.weight"),
        rename("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
        *(rename(f"{_GGUF_BLOCK}.attn_{n}.weight", f"{_T5_ATTENTION}.{n}.weight") for n in "qkvo"),
        rename(
            f"{_GGUF_BLOCK}.attn_rel_b.weight",
            f"{_T5_ATTENTION}.relative_attention_bias.weight",
        ),
        rename(f"{_GGUF_BLOCK}.attn_norm.weight", f"{_T5_BLOCK}.0.layer_norm.weight"),
        rename(f"{_GGUF_BLOCK}.ffn_gate.weight", f"{_T5_BLOCK}.1.DenseReluDense.wi_0.weight"),
        rename(f"{_GGUF_BLOCK}.ffn_up.weight", f"{_T5_BLOCK}.1.DenseReluDense.wi_1.weight"),
        rename(f"{_GGUF_BLOCK}.ffn_down.weight", f"{_T5_BLOCK}.1.DenseReluDense.wo.weight"),
        rename(f"{_GGUF_BLOCK}.ffn_norm.weight", f"{_T5_BLOCK}.1.layer_norm.weight"),
    ),
)
_POSITIONS = "encoder.pos_conv_embed.conv"
_GAIN, _DIRECTION = (f"{_POSITIONS}.parametrizations.weight.original{n}" for n in (0, 1))


def _wav2vec2(gain: str, direction: str) -> KeyMap:
    return KeyMap(
        ARE["speech_encoder"],
        (
            rename("feature_extractor.{rest}", "feature_extractor.{rest}"),
            rename("feature_projection.{rest}", "feature_projection.{rest}"),
            rename("encoder.layer_norm.{p}", "encoder.layer_norm.{p}"),
            rename("encoder.layers.{rest}", "encoder.layers.{rest}"),
            rename(f"{_POSITIONS}.bias", f"{_POSITIONS}.bias"),
            rename(gain, _GAIN),
            rename(direction, _DIRECTION),
            drop("masked_spec_embed", "hides stretches while training"),
        ),
    )


_SAT = "transformer.layers.0"
_BLOCK = "transformer_blocks.0"
_T5_PREFIXES = (
    "",
    "conditioner.embedders.0.transformer.",
    "text_encoders.t5xxl.transformer.",
    "t5xxl.transformer.",
)
_OLD, _NEW = (f"{_POSITIONS}.weight_g", f"{_POSITIONS}.weight_v"), (_GAIN, _DIRECTION)

NAMINGS = (
    Naming(
        part="transformer",
        origin="the original's",
        prefixes=(TRANSFORMER_PREFIX,),
        keys=TRANSFORMER,
        marks=(f"{_SAT}.attention.query_key_value.weight", f"{_SAT}.audio_attn.query.weight"),
    ),
    Naming(
        part="reference",
        origin="the original's",
        prefixes=(REFERENCE_PREFIX,),
        keys=REFERENCE,
        marks=(f"{_SAT}.attention.query_key_value.weight",),
        strangers=(f"{_SAT}.audio_attn.query.weight",),
    ),
    Naming(
        part="transformer",
        origin="diffusers'",
        prefixes=("", TRANSFORMER_PREFIX, "diffusion_model."),
        keys=_as_they_are("transformer"),
        marks=(f"{_BLOCK}.attn1.to_q.weight", f"{_BLOCK}.attn_audio.to_q.weight"),
    ),
    Naming(
        part="reference",
        origin="diffusers'",
        prefixes=("", REFERENCE_PREFIX),
        keys=_as_they_are("reference"),
        marks=(f"{_BLOCK}.attn1.to_q.weight",),
        strangers=(f"{_BLOCK}.attn_audio.to_q.weight",),
    ),
    Naming(
        part="vae",
        origin="the original's",
        prefixes=("", VAE_PREFIX),
        keys=VAE,
        marks=("encoder.down.0.block.0.conv1.conv.weight",),
    ),
    Naming(
        part="vae",
        origin="diffusers'",
        prefixes=("", VAE_PREFIX, "vae."),
        keys=_as_they_are("vae"),
        marks=("encoder.down_blocks.0.resnets.0.conv1.conv.weight",),
    ),
    Naming(
        part="text_encoder",
        origin="transformers'",
        prefixes=_T5_PREFIXES,
        keys=_T5,
        marks=("encoder.block.0.layer.0.SelfAttention.q.weight",),
    ),
    Naming(
        part="text_encoder",
        origin="llama.cpp's",
        prefixes=("",),
        keys=_T5_GGUF,
        marks=("enc.blk.0.attn_q.weight", "enc.blk.0.attn_rel_b.weight"),
    ),
    *(
        Naming(
            part="speech_encoder",
            origin="transformers'",
            prefixes=("wav2vec2.", ""),
            keys=_wav2vec2(*weight_norm),
            marks=("feature_projection.projection.weight", weight_norm[0]),
        )
        for weight_norm in (_OLD, _NEW)
    ),
)
"""Everything that is read. Of two namings that fit, the first counts."""

OUTSIDE: dict[str, str] = {
    "loss.": "judges the VAE while training",
    "lm_head.": "spells what was heard, which is not asked",
    "model_ema.": "an average kept while training",
    "spiece_model": "the tokenizer, which is read from files of its own",
    "logit_scale": "belongs to another text encoder",
}
"""Tensors beside a part's, by how their names begin, and why they are not needed."""

LOOKS_LIKE = (
    ("double_blocks.0.img_attn.qkv.weight", "Flux"),
    ("double_blocks.0.img_attn_q.weight", "HunyuanVideo"),
    ("blocks.0.self_attn.q.weight", "Wan"),
    ("joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
    ("input_blocks.0.0.weight", "Stable Diffusion 1, 2 or XL"),
    ("down_blocks.0.resnets.0.conv1.weight", "a Stable Diffusion UNet or VAE"),
    ("encoder.down.0.block.0.conv1.weight", "the VAE of an image model"),
    ("transformer_blocks.0.attn1.to_q.weight", "plain CogVideoX, without Hallo3's face and audio attention"),
    ("transformer.layers.0.attention.query_key_value.weight", "plain CogVideoX, without Hallo3's additions"),
    ("text_model.embeddings.token_embedding.weight", "CLIP"),
    ("lora_A.weight", "a LoRA"),
    ("lora_down.weight", "a LoRA"),
    ("lora_up.weight", "a LoRA"),
    ("model.layers.0.self_attn.q_proj.weight", "a language model"),
)
"""Ends of names by which other models are known."""
