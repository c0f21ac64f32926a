"""Where every tensor of the released files stands with us (facts 13; facts/checkpoint manifest).

Trunk names are diffusers' CogVideoX, so tools of that family know them.
"""

from __future__ import annotations

from .keymap import KeyMap, Rule, drop, rename, split

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
