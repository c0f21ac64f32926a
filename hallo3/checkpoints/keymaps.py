"""The names under which the parts of the model are published, as data."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from ..config import COMPONENT_TITLES
from ..errors import CheckpointError

_PLACEHOLDERS = {"i": r"\d+", "j": r"\d+", "p": "weight|bias", "rest": r".+"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``source`` in n equal pieces along dim 0 -> targets, each taking the pieces named, in order.

    Without targets the tensor is dropped and ``why`` says so.
    """

    source: str
    targets: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    pieces: int = 1
    why: str = ""


def rename(source: str, target: str) -> Rule:
    """One tensor under another name."""
    return Rule(source=source, targets={target: (0,)})


def split(source: str, pieces: int, targets: Mapping[str, tuple[int, ...]]) -> Rule:
    """One tensor cut into pieces along its first dimension and regrouped; every piece goes somewhere."""
    if sorted(index for group in targets.values() for index in group) != list(range(pieces)):
        raise ValueError(f"{source}: every one of {pieces} pieces must be used once")
    return Rule(source=source, targets=targets, pieces=pieces)


def drop(source: str, why: str) -> Rule:
    """A tensor that has no place with us."""
    return Rule(source=source, why=why)


@dataclass(frozen=True, slots=True)
class Assembly:
    """A tensor of ours as stretches (name, first element, end) of the original's tensors, in order."""

    shape: tuple[int, ...]
    stretches: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class KeyMap:
    """Rules that cover every key of a checkpoint part exactly once."""

    what: str
    rules: tuple[Rule, ...]

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The original's tensors under our names. Raises ``CheckpointError`` for a key no rule knows."""
        plan = self.assemble({key: tuple(tensor.shape) for key, tensor in state.items()})
        return {
            target: _join([state[key].flatten()[a:b] for key, a, b in made.stretches]).reshape(made.shape)
            for target, made in plan.items()
        }

    def assemble(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Assembly]:
        """What each of our tensors is made of, from the original's names and shapes alone.

        Raises ``CheckpointError`` for a key that no rule knows or a shape that cannot be cut.
        """
        ours: dict[str, Assembly] = {}
        for key, shape in shapes.items():
            rule, names = self._match(key)
            for target, group in rule.targets.items():
                if rule.pieces > 1 and (not shape or shape[0] % rule.pieces):
                    raise self._refused(f"{key} of shape {list(shape)}", f"{rule.pieces} equal pieces")
                cut = math.prod(shape) // rule.pieces
                rows = (shape[0] // rule.pieces * len(group), *shape[1:]) if rule.pieces > 1 else shape
                stretches = tuple((key, index * cut, (index + 1) * cut) for index in group)
                ours[target.format_map(names)] = Assembly(rows, stretches)
        return ours

    def to_original(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under the original's names; dropped ones stay absent."""
        groups: dict[str, tuple[Rule, dict[int, Tensor]]] = {}
        for key, tensor in state.items():
            rule, group, names = self._match_reversed(key)
            _, found = groups.setdefault(rule.source.format_map(names), (rule, {}))
            pieces = tensor.chunk(len(group))
            if len(pieces) != len(group):
                raise self._refused(key, f"{len(group)} equal pieces")
            found.update(zip(group, pieces, strict=True))
        for key, (rule, found) in groups.items():
            if len(found) != rule.pieces:
                raise self._refused(key, f"all of {', '.join(rule.targets)}")
        return {key: _join([found[index] for index in sorted(found)]) for key, (_, found) in groups.items()}

    def dropped(self, keys: Iterable[str]) -> dict[str, str]:
        """Which keys have no place with us, and why."""
        matched = ((key, self._match(key)[0]) for key in keys)
        return {key: rule.why for key, rule in matched if not rule.targets}

    def _match(self, key: str) -> tuple[Rule, dict[str, str]]:
        found = [
            (rule, match.groupdict())
            for rule in self.rules
            if (match := _pattern(rule.source).fullmatch(key))
        ]
        if len(found) != 1:
            raise self._refused(key, "a key that exactly one rule knows")
        return found[0]

    def _match_reversed(self, key: str) -> tuple[Rule, tuple[int, ...], dict[str, str]]:
        found = [
            (rule, group, match.groupdict())
            for rule in self.rules
            for target, group in rule.targets.items()
            if (match := _pattern(target).fullmatch(key))
        ]
        if len(found) != 1:
            raise self._refused(key, "a key that exactly one rule makes")
        return found[0]

    def _refused(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"These weights are not {self.what}.",
            found=f"the key {key[:120]}",
            expected=expected,
            fix="check that the file is the part of Hallo3 you meant",
        )


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """The template as a regular expression; a placeholder met again must repeat."""
    seen: set[str] = set()
    parts: list[str] = []
    for text, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        parts.append(re.escape(text))
        if name:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{_PLACEHOLDERS[name]})")
            seen.add(name)
    return re.compile("".join(parts))


def _join(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


_SAT_PREFIX_MAP, _BLOCK_MAP = "transformer.layers.{i}", "transformer_blocks.{i}"
_MIXIN = "mixins."

_TRUNK: tuple[Rule, ...] = (
    rename(_MIXIN + "patch_embed.proj.{p}", "patch_embed.proj.{p}"),
    rename(_MIXIN + "patch_embed.text_proj.{p}", "patch_embed.text_proj.{p}"),
    rename(_MIXIN + "pos_embed.pos_embedding", "patch_embed.pos_embedding"),
    drop(_MIXIN + "pos_embed.freqs_cos", "a table, recomputed from the configuration"),
    drop(_MIXIN + "pos_embed.freqs_sin", "a table, recomputed from the configuration"),
    rename("time_embed.0.{p}", "time_embedding.linear_1.{p}"),
    rename("time_embed.2.{p}", "time_embedding.linear_2.{p}"),
    split(
        _SAT_PREFIX_MAP + ".attention.query_key_value.{p}",
        3,
        {
            _BLOCK_MAP + ".attn1.to_q.{p}": (0,),
            _BLOCK_MAP + ".attn1.to_k.{p}": (1,),
            _BLOCK_MAP + ".attn1.to_v.{p}": (2,),
        },
    ),
    rename(_SAT_PREFIX_MAP + ".attention.dense.{p}", _BLOCK_MAP + ".attn1.to_out.0.{p}"),
    rename(_MIXIN + "adaln_layer.query_layernorm_list.{i}.{p}", _BLOCK_MAP + ".attn1.norm_q.{p}"),
    rename(_MIXIN + "adaln_layer.key_layernorm_list.{i}.{p}", _BLOCK_MAP + ".attn1.norm_k.{p}"),
    rename(_SAT_PREFIX_MAP + ".input_layernorm.{p}", _BLOCK_MAP + ".norm1.norm.{p}"),
    rename(_SAT_PREFIX_MAP + ".post_attention_layernorm.{p}", _BLOCK_MAP + ".norm2.norm.{p}"),
    split(
        _MIXIN + "adaln_layer.adaLN_modulations.{i}.1.{p}",
        12,
        {
            _BLOCK_MAP + ".norm1.linear.{p}": (0, 1, 2, 6, 7, 8),
            _BLOCK_MAP + ".norm2.linear.{p}": (3, 4, 5, 9, 10, 11),
        },
    ),
    rename(_SAT_PREFIX_MAP + ".mlp.dense_h_to_4h.{p}", _BLOCK_MAP + ".ff.net.0.proj.{p}"),
    rename(_SAT_PREFIX_MAP + ".mlp.dense_4h_to_h.{p}", _BLOCK_MAP + ".ff.net.2.{p}"),
    rename("transformer.final_layernorm.{p}", "norm_final.{p}"),
    rename(_MIXIN + "final_layer.norm_final.{p}", "norm_out.norm.{p}"),
    rename(_MIXIN + "final_layer.adaLN_modulation.1.{p}", "norm_out.linear.{p}"),
    rename(_MIXIN + "final_layer.linear.{p}", "proj_out.{p}"),
    drop("transformer.position_embeddings.weight", "never read by either network"),
)


def _cross_attention(name: str) -> tuple[Rule, ...]:
    attn, norm = f"{_BLOCK_MAP}.attn_{name}", f"{_BLOCK_MAP}.norm_{name}"
    return (
        rename(f"{_SAT_PREFIX_MAP}.{name}_input_layernorm.{{p}}", norm + ".{p}"),
        rename(f"{_SAT_PREFIX_MAP}.{name}_attn.query.{{p}}", attn + ".to_q.{p}"),
        split(
            f"{_SAT_PREFIX_MAP}.{name}_attn.key_value.{{p}}",
            2,
            {attn + ".to_k.{p}": (0,), attn + ".to_v.{p}": (1,)},
        ),
        rename(f"{_SAT_PREFIX_MAP}.{name}_attn.dense.{{p}}", attn + ".to_out.0.{p}"),
    )


TRANSFORMER = KeyMap(
    "Hallo3's transformer",
    (
        *_TRUNK,
        *_cross_attention("face"),
        *_cross_attention("audio"),
        rename("transformer.audio_proj.{rest}", "audio_proj.{rest}"),
        rename("transformer.face_proj.{rest}", "face_proj.{rest}"),
    ),
)
TRANSFORMER_PREFIX = "model.diffusion_model."

REFERENCE = KeyMap("Hallo3's reference network", _TRUNK)
REFERENCE_PREFIX = "ref_model.diffusion_model."


def _vae_side(side: str) -> tuple[Rule, ...]:
    return tuple(
        rename(f"{side}.mid.block_{n + 1}.{{rest}}", f"{side}.mid_block.resnets.{n}.{{rest}}")
        for n in range(2)
    ) + tuple(
        rename(f"{side}.{name}.{{rest}}", f"{side}.{name}.{{rest}}")
        for name in ("conv_in", "norm_out", "conv_out")
    )


def _vae_levels(levels: int) -> tuple[Rule, ...]:
    """Decoder levels count down in the original and up with us."""
    rules: list[Rule] = []
    for n in range(levels):
        down, up = f"encoder.down.{n}", f"decoder.up.{n}"
        down_block, up_block = f"encoder.down_blocks.{n}", f"decoder.up_blocks.{levels - 1 - n}"
        rules += _residuals(down, down_block) + _residuals(up, up_block)
        rules.append(rename(f"{down}.downsample.{{rest}}", f"{down_block}.downsamplers.0.{{rest}}"))
        rules.append(rename(f"{up}.upsample.{{rest}}", f"{up_block}.upsamplers.0.{{rest}}"))
    return tuple(rules)


def _residuals(level: str, block: str) -> list[Rule]:
    theirs, ours = f"{level}.block.{{j}}", f"{block}.resnets.{{j}}"
    parts = [rename(f"{theirs}.{part}.{{rest}}", f"{ours}.{part}.{{rest}}") for part in _RESIDUAL_PARTS]
    return [*parts, rename(f"{theirs}.nin_shortcut.{{p}}", f"{ours}.conv_shortcut.{{p}}")]


_RESIDUAL_PARTS = ("norm1", "norm2", "conv1", "conv2")

VAE = KeyMap(
    "Hallo3's 3D VAE",
    (*_vae_side("encoder"), *_vae_side("decoder"), *_vae_levels(4)),
)
VAE_PREFIX = "first_stage_model."


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
    return KeyMap(COMPONENT_TITLES[part], (rename("{rest}", "{rest}"),))


_T5_TIE: Rule = drop("encoder.embed_tokens.weight", "the same table as shared.weight")
_T5 = KeyMap(
    COMPONENT_TITLES["text_encoder"],
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
    COMPONENT_TITLES["text_encoder"],
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
        COMPONENT_TITLES["speech_encoder"],
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
