"""The names under which the components are published -> our names, as tables."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from ..config import COMPONENT_TITLES
from ..errors import CheckpointError

PLACEHOLDERS = {"i": r"\d+", "j": r"\d+", "p": "weight|bias", "rest": r".+"}  # for ``{name}``


@dataclass(frozen=True, slots=True)
class Split:
    """A tensor cut into ``pieces`` along its first dimension; each target takes its own, in order."""

    pieces: int
    targets: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Drop:
    """A tensor that we do not need, and why."""

    reason: str


Rules = Mapping[str, str | Split | Drop]  # by published name: our name, or several


@dataclass(frozen=True, slots=True)
class Assembly:
    """A tensor of ours as stretches (name, first element, end) of published tensors, in order."""

    shape: tuple[int, ...]
    stretches: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class KeyMap:
    """``rules`` for every name of ``title``, a component."""

    title: str
    rules: Rules

    def assemble(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Assembly]:
        """Our tensors, from the published names and shapes alone. Raises ``CheckpointError`` for a name
        without a rule, and a shape that cannot be cut."""
        ours: dict[str, Assembly] = {}
        for name, shape in shapes.items():
            rule, words = self._match(name)
            if isinstance(rule, Drop):
                continue
            if isinstance(rule, str):
                ours[rule.format_map(words)] = Assembly(shape, ((name, 0, math.prod(shape)),))
                continue
            if not shape or shape[0] % rule.pieces:
                raise self._error(f"{name} of shape {list(shape)}", f"{rule.pieces} equal pieces")
            size = math.prod(shape) // rule.pieces
            for target, pieces in rule.targets.items():
                stretches = tuple((name, piece * size, (piece + 1) * size) for piece in pieces)
                rows = shape[0] // rule.pieces * len(pieces)
                ours[target.format_map(words)] = Assembly((rows, *shape[1:]), stretches)
        return ours

    def dropped(self, names: Iterable[str]) -> dict[str, str]:
        rules = ((name, self._match(name)[0]) for name in names)
        return {name: rule.reason for name, rule in rules if isinstance(rule, Drop)}

    def _match(self, name: str) -> tuple[str | Split | Drop, dict[str, str]]:
        for source, rule in self.rules.items():
            if match := _pattern(source).fullmatch(name):
                return rule, match.groupdict()
        raise self._error(f"the key {name[:120]}", "a key that a rule knows")

    def _error(self, found: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"These weights are not {self.title}.",
            found=found,
            expected=expected,
            fix="check that the file is the component of Hallo3 that you meant",
        )


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(
            f"(?P<{part}>{PLACEHOLDERS[part]})" if n % 2 else re.escape(part) for n, part in enumerate(parts)
        )
    )


_LAYER, _BLOCK, _ADALN = "transformer.layers.{i}", "transformer_blocks.{i}", "mixins.adaln_layer"
_TABLE = Drop("a table, recomputed from the configuration")
_TRUNK: Rules = {
    "mixins.patch_embed.proj.{p}": "patch_embed.proj.{p}",
    "mixins.patch_embed.text_proj.{p}": "patch_embed.text_proj.{p}",
    "mixins.pos_embed.pos_embedding": "patch_embed.pos_embedding",
    "mixins.pos_embed.freqs_cos": _TABLE,
    "mixins.pos_embed.freqs_sin": _TABLE,
    "time_embed.0.{p}": "time_embedding.linear_1.{p}",
    "time_embed.2.{p}": "time_embedding.linear_2.{p}",
    f"{_LAYER}.attention.query_key_value.{{p}}": Split(
        3, {f"{_BLOCK}.attn1.to_{name}.{{p}}": (n,) for n, name in enumerate("qkv")}
    ),
    f"{_LAYER}.attention.dense.{{p}}": f"{_BLOCK}.attn1.to_out.0.{{p}}",
    f"{_ADALN}.query_layernorm_list.{{i}}.{{p}}": f"{_BLOCK}.attn1.norm_q.{{p}}",
    f"{_ADALN}.key_layernorm_list.{{i}}.{{p}}": f"{_BLOCK}.attn1.norm_k.{{p}}",
    f"{_LAYER}.input_layernorm.{{p}}": f"{_BLOCK}.norm1.norm.{{p}}",
    f"{_LAYER}.post_attention_layernorm.{{p}}": f"{_BLOCK}.norm2.norm.{{p}}",
    f"{_ADALN}.adaLN_modulations.{{i}}.1.{{p}}": Split(
        12,
        {
            f"{_BLOCK}.norm1.linear.{{p}}": (0, 1, 2, 6, 7, 8),
            f"{_BLOCK}.norm2.linear.{{p}}": (3, 4, 5, 9, 10, 11),
        },
    ),
    f"{_LAYER}.mlp.dense_h_to_4h.{{p}}": f"{_BLOCK}.ff.net.0.proj.{{p}}",
    f"{_LAYER}.mlp.dense_4h_to_h.{{p}}": f"{_BLOCK}.ff.net.2.{{p}}",
    "transformer.final_layernorm.{p}": "norm_final.{p}",
    "mixins.final_layer.norm_final.{p}": "norm_out.norm.{p}",
    "mixins.final_layer.adaLN_modulation.1.{p}": "norm_out.linear.{p}",
    "mixins.final_layer.linear.{p}": "proj_out.{p}",
    "transformer.position_embeddings.weight": Drop("never read by either network"),
}


def _cross_attention(name: str) -> Rules:
    attention = f"{_BLOCK}.attn_{name}"
    return {
        f"{_LAYER}.{name}_input_layernorm.{{p}}": f"{_BLOCK}.norm_{name}.{{p}}",
        f"{_LAYER}.{name}_attn.query.{{p}}": f"{attention}.to_q.{{p}}",
        f"{_LAYER}.{name}_attn.key_value.{{p}}": Split(
            2, {f"{attention}.to_k.{{p}}": (0,), f"{attention}.to_v.{{p}}": (1,)}
        ),
        f"{_LAYER}.{name}_attn.dense.{{p}}": f"{attention}.to_out.0.{{p}}",
    }


TRANSFORMER = KeyMap(
    "Hallo3's transformer",
    {
        **_TRUNK,
        **_cross_attention("face"),
        **_cross_attention("audio"),
        "transformer.audio_proj.{rest}": "audio_proj.{rest}",
        "transformer.face_proj.{rest}": "face_proj.{rest}",
    },
)
TRANSFORMER_PREFIX = "model.diffusion_model."
REFERENCE = KeyMap("Hallo3's reference network", _TRUNK)
REFERENCE_PREFIX = "ref_model.diffusion_model."


def _same(*names: str) -> Rules:
    return {name: name for name in names}


def _vae_level(side: str, level: int) -> Rules:
    """Decoder levels count down in the original and up with us."""
    resample = {"down": "downsample", "up": "upsample"}[side]
    coder, block = ("encoder", level) if side == "down" else ("decoder", 3 - level)
    theirs, ours = f"{coder}.{side}.{level}", f"{coder}.{side}_blocks.{block}"
    residual = ("norm1", "norm2", "conv1", "conv2")
    return {
        **{f"{theirs}.block.{{j}}.{n}.{{rest}}": f"{ours}.resnets.{{j}}.{n}.{{rest}}" for n in residual},
        f"{theirs}.block.{{j}}.nin_shortcut.{{p}}": f"{ours}.resnets.{{j}}.conv_shortcut.{{p}}",
        f"{theirs}.{resample}.{{rest}}": f"{ours}.{resample}rs.0.{{rest}}",
    }


VAE = KeyMap(
    "Hallo3's 3D VAE",
    {
        f"{coder}.{theirs}.{{rest}}": f"{coder}.{ours}.{{rest}}"
        for coder in ("encoder", "decoder")
        for theirs, ours in {
            "mid.block_1": "mid_block.resnets.0",
            "mid.block_2": "mid_block.resnets.1",
            **_same("conv_in", "norm_out", "conv_out"),
        }.items()
    }
    | {
        name: rule
        for side in ("down", "up")
        for level in range(4)
        for name, rule in _vae_level(side, level).items()
    },
)
VAE_PREFIX = "first_stage_model."

_T5_DECODER = Drop("T5's decoder is not used")
_T5 = KeyMap(
    COMPONENT_TITLES["text_encoder"],
    {
        **_same("shared.weight", "encoder.block.{rest}", "encoder.final_layer_norm.weight"),
        "encoder.embed_tokens.weight": Drop("the same table as shared.weight"),
        "decoder.{rest}": _T5_DECODER,
        "lm_head.weight": _T5_DECODER,
    },
)
_GGUF_BLOCK, _T5_BLOCK = "enc.blk.{i}", "encoder.block.{i}.layer"
_T5_ATTENTION = f"{_T5_BLOCK}.0.SelfAttention"
_T5_GGUF = KeyMap(
    COMPONENT_TITLES["text_encoder"],
    {
        "token_embd.weight": "shared.weight",
        "enc.output_norm.weight": "encoder.final_layer_norm.weight",
        **{f"{_GGUF_BLOCK}.attn_{n}.weight": f"{_T5_ATTENTION}.{n}.weight" for n in "qkvo"},
        f"{_GGUF_BLOCK}.attn_rel_b.weight": f"{_T5_ATTENTION}.relative_attention_bias.weight",
        f"{_GGUF_BLOCK}.attn_norm.weight": f"{_T5_BLOCK}.0.layer_norm.weight",
        f"{_GGUF_BLOCK}.ffn_gate.weight": f"{_T5_BLOCK}.1.DenseReluDense.wi_0.weight",
        f"{_GGUF_BLOCK}.ffn_up.weight": f"{_T5_BLOCK}.1.DenseReluDense.wi_1.weight",
        f"{_GGUF_BLOCK}.ffn_down.weight": f"{_T5_BLOCK}.1.DenseReluDense.wo.weight",
        f"{_GGUF_BLOCK}.ffn_norm.weight": f"{_T5_BLOCK}.1.layer_norm.weight",
    },
)
_POSITIONS = "encoder.pos_conv_embed.conv"
_NEW_NORM = tuple(f"{_POSITIONS}.parametrizations.weight.original{n}" for n in (0, 1))
_OLD_NORM = f"{_POSITIONS}.weight_g", f"{_POSITIONS}.weight_v"


def _wav2vec2(weight_norm: tuple[str, ...]) -> KeyMap:
    return KeyMap(
        COMPONENT_TITLES["speech_encoder"],
        {
            **_same("feature_extractor.{rest}", "feature_projection.{rest}", "encoder.layer_norm.{p}"),
            **_same("encoder.layers.{rest}", f"{_POSITIONS}.bias"),
            **dict(zip(weight_norm, _NEW_NORM, strict=True)),
            "masked_spec_embed": Drop("hides stretches while training"),
        },
    )


OUR_KEYS = KeyMap("", _same("{rest}"))
WRAPPERS = ("", "module.", "_orig_mod.", "module._orig_mod.")  # what training programs put before every name


@dataclass(frozen=True, slots=True)
class Naming:
    """How a file names the tensors of a component: one of ``prefixes``, then names that ``keys`` maps to
    ours. A file uses it if all ``marks`` are there and not the ``stranger``."""

    part: str
    origin: str
    prefixes: tuple[str, ...]
    marks: tuple[str, ...]
    keys: KeyMap = OUR_KEYS
    stranger: str = ""

    def find_prefix(self, names: Collection[str]) -> str | None:
        """The prefix that these names have, or None if they follow another naming."""
        for prefix in (wrapper + prefix for wrapper in WRAPPERS for prefix in self.prefixes):
            marked = all(prefix + mark in names for mark in self.marks)
            if marked and not (self.stranger and prefix + self.stranger in names):
                return prefix
        return None


_FUSED, _FUSED_AUDIO = (
    f"transformer.layers.0.{n}.weight" for n in ("attention.query_key_value", "audio_attn.query")
)
_QUERY, _AUDIO_QUERY = (f"transformer_blocks.0.{n}.to_q.weight" for n in ("attn1", "attn_audio"))
_T5_PREFIXES = (
    "",
    *(f"{n}.transformer." for n in ("conditioner.embedders.0", "text_encoders.t5xxl", "t5xxl")),
)

_T5_MARK = "encoder.block.0.layer.0.SelfAttention.q.weight"
_WAV2VEC2_MARK = "feature_projection.projection.weight"
_GGUF_MARKS = "enc.blk.0.attn_q.weight", "enc.blk.0.attn_rel_b.weight"
_VAE_MARK, _VAE_DIFFUSERS_MARK = (
    f"encoder.{n}.0.conv1.conv.weight" for n in ("down.0.block", "down_blocks.0.resnets")
)
_SAT, _DIFFUSERS, _TRANSFORMERS = "the original's", "diffusers'", "transformers'"
_TRUNKS = ("", TRANSFORMER_PREFIX, "diffusion_model.")
NAMINGS = (
    Naming("transformer", _SAT, (TRANSFORMER_PREFIX,), (_FUSED, _FUSED_AUDIO), TRANSFORMER),
    Naming("reference", _SAT, (REFERENCE_PREFIX,), (_FUSED,), REFERENCE, _FUSED_AUDIO),
    Naming("transformer", _DIFFUSERS, _TRUNKS, (_QUERY, _AUDIO_QUERY)),
    Naming("reference", _DIFFUSERS, ("", REFERENCE_PREFIX), (_QUERY,), stranger=_AUDIO_QUERY),
    Naming("vae", _SAT, ("", VAE_PREFIX), (_VAE_MARK,), VAE),
    Naming("vae", _DIFFUSERS, ("", VAE_PREFIX, "vae."), (_VAE_DIFFUSERS_MARK,)),
    Naming("text_encoder", _TRANSFORMERS, _T5_PREFIXES, (_T5_MARK,), _T5),
    Naming("text_encoder", "llama.cpp's", ("",), _GGUF_MARKS, _T5_GGUF),
    *(
        Naming("speech_encoder", _TRANSFORMERS, ("wav2vec2.", ""), (_WAV2VEC2_MARK, norm[0]), _wav2vec2(norm))
        for norm in (_OLD_NORM, _NEW_NORM)
    ),
)
"""Of two namings that fit, the first counts."""

OUTSIDE = {
    "loss.": "judges the VAE while training",
    "lm_head.": "turns features into letters, which nothing needs",
    "model_ema.": "an average kept while training",
    "spiece_model": "the tokenizer, which is read from files of its own",
    "logit_scale": "belongs to another text encoder",
}
"""Tensors beside a component's, by the start of their names, and why they are not needed."""

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
