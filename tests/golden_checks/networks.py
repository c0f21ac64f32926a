"""The original's tiny networks, loaded through our key maps into our modules."""

import re
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from hallo3.checkpoints import keymaps as maps
from hallo3.checkpoints.load import load_strict
from hallo3.config import AudioConfig, FaceConfig, Hallo3Config, SegmentConfig, TrunkConfig, VAEConfig
from hallo3.geometry import LatentShape
from hallo3.model.layers import Attention, Layers, sdpa
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.speech.wav2vec2 import BASE, build_wav2vec2
from hallo3.vae.autoencoder import VideoVAE, build_vae
from support.original_checkpoints import to_ours

from .directory import Golden

TRANSFORMER, REFERENCE = "weights_main_dit", "weights_ref_net"
ENCODER, DECODER = "weights_vae_encoder", "weights_vae_decoder"
SPEECH = "weights_wav2vec_tiny"
TRUNK = (
    "layers=num_layers heads=num_attention_heads head_dim=head_dim time_dim=time_embed_dim "
    "text_dim=text_hidden_size text_tokens=text_length latent_channels=latent_channels"
)
AUDIO = (
    "window=seq_len layers=blocks channels=channels hidden=intermediate_dim tokens=context_tokens "
    "token_dim=output_dim"
)
FACE = "embedding_dim=clip_embeddings_dim tokens=clip_extra_context_tokens token_dim=hidden_size"
VAE = "layers_per_block=num_res_blocks latent_channels=z_channels norm_num_groups=norm_groups norm_eps=gn_eps"
"""Our fields of a configuration, and the original's."""


def weights_of(golden: Golden, usual: str) -> Golden:
    """The weights a golden names for this part, or the usual ones. Of several names the part's own is
    the one that holds its words ("main_dit", "ref_net", "vae_encoder" …)."""
    named = golden.about.get("weights")
    names = [named] if isinstance(named, str) else list(named or [])
    stems = [name.removesuffix(".safetensors") for name in names]
    if len(stems) == 1:
        return golden.other(stems[0])
    part = usual.removeprefix("weights_").removesuffix("_tiny")
    return golden.other(next((stem for stem in stems if part in stem), usual))


def config_of(about: Mapping[str, Any], vae: VAEConfig | None = None) -> Hallo3Config:
    """Our configuration from a golden's."""
    c, audio, face = about["config"], about["config"]["audio_proj"], about["config"]["face_proj"]
    video = LatentShape(c["latent_frames"], c["latent_height"], c["latent_width"]).video
    return Hallo3Config(
        name="golden",
        trunk=TrunkConfig(**_renamed(c, TRUNK)),
        audio=AudioConfig(**_renamed(audio, AUDIO)),
        face=FaceConfig(space="golden", **_renamed(face, FACE)),
        vae=vae or VAEConfig(latent_channels=c["latent_channels"]),
        segment=SegmentConfig(frames=video.frames, height=video.height, width=video.width),
    )


def transformer(
    golden: Golden, config: Hallo3Config, attention: Attention = sdpa, patterns: Any = (), factor: float = 1.0
) -> Hallo3Transformer:
    """The main network; weights whose name matches one of the patterns are multiplied."""
    state = _stripped(weights_of(golden, TRANSFORMER), maps.TRANSFORMER_PREFIX)
    for name in [name for name in state if any(re.search(pattern, name) for pattern in patterns)]:
        state[name] = state[name] * factor
    network = Hallo3Transformer(config, Layers(device="meta", attention=attention))
    load_strict(network, to_ours(maps.TRANSFORMER, state), "the golden's transformer")
    return network


def reference(golden: Golden, config: Hallo3Config, attention: Attention = sdpa) -> ReferenceNetwork:
    state = _stripped(weights_of(golden, REFERENCE), maps.REFERENCE_PREFIX)
    layers = Layers(device="meta", attention=attention)
    network = ReferenceNetwork(config.trunk, config.segment.shape.latent, layers)
    load_strict(network, to_ours(maps.REFERENCE, state), "the golden's reference network")
    return network


def vae_config(about: Mapping[str, Any]) -> VAEConfig:
    c = about["config"]
    channels = tuple(c["ch"] * factor for factor in c["ch_mult"])
    return VAEConfig(block_out_channels=channels, **_renamed(c, VAE))


def vae(encoder: Golden | None, decoder: Golden | None) -> VideoVAE:
    """The VAE with the side or sides whose weights are given; the other stays on meta."""
    given = {"encoder": encoder, "decoder": decoder}
    about = next(weights.about for weights in given.values() if weights is not None)
    built = build_vae(vae_config(about))
    for side, weights in given.items():
        if weights is not None:
            ours = to_ours(maps.VAE, _stripped(weights, ""))
            state = {name.removeprefix(side + "."): tensor for name, tensor in ours.items()}
            load_strict(cast(nn.Module, getattr(built.network, side)), state, f"the golden's VAE {side}")
    return built


def speech_encoder(weights: Golden, config: Mapping[str, Any]) -> nn.Module:
    """wav2vec2 from a golden's sizes; fields that are not sizes only repeat what we fix."""
    network = build_wav2vec2({name: value for name, value in config.items() if name in BASE})
    unused = ("masked_spec_embed", "lm_head.", "quantizer.", "project_")
    state = _stripped(weights, "wav2vec2.").items()
    renamed = {_new_weight_norm(k): tensor for k, tensor in state if not k.startswith(unused)}
    load_strict(network, renamed, "the golden's speech encoder")
    return network


def _renamed(config: Mapping[str, Any], fields: str) -> dict[str, Any]:
    return {ours: config[theirs] for ours, theirs in (pair.split("=") for pair in fields.split())}


def _stripped(weights: Golden, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor.float() for name, tensor in weights.tensors.items()}


def _new_weight_norm(name: str) -> str:
    parametrized = "conv.parametrizations.weight.original"
    return name.replace("conv.weight_g", parametrized + "0").replace("conv.weight_v", parametrized + "1")
