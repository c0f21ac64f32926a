"""Encoding in one call, decoding in slices and in one go."""

import torch
from torch import Tensor

from hallo3.vae.autoencoder import VideoVAE

from . import networks
from .directory import Check, Golden, Report


def encode(golden: Golden, report: Report) -> None:
    """Moments and sampled latents for every recorded clip length."""
    vae = networks.vae(networks.weights_of(golden, networks.ENCODER), None)
    for count in golden.names("in.video_"):
        clip = golden[f"in.video_{count}"]
        report.check(f"out.moments_{count}", torch.cat(vae.posterior(clip), dim=1))
        report.check(f"out.latent_scaled_{count}", vae.encode(clip, golden[f"noise_{count}"]))


def decode_chunked(golden: Golden, report: Report) -> None:
    """Slice by slice as the original's script does it."""
    vae, latents = _decoder(golden)
    frames = list(vae.decode(latents))
    report.check("out.chunked", torch.cat(frames, dim=2))
    if "frames_per_chunk" in golden.about:
        report.exact("frames_per_chunk", [part.shape[2] for part in frames], golden.about["frames_per_chunk"])


def decode_onego(golden: Golden, report: Report) -> None:
    """All latents in one decoder call, and the first few alone."""
    vae, latents = _decoder(golden)
    if golden.has("out.one_go"):
        report.check("out.one_go", next(vae.decode(latents, [latents.shape[2]])))
    for name in golden.names("out.first_"):
        count = int(name.split("_")[0])
        report.check(f"out.first_{name}", next(vae.decode(latents[:, :, :count], [count])))


def _decoder(golden: Golden) -> tuple[VideoVAE, Tensor]:
    vae = networks.vae(None, networks.weights_of(golden, networks.DECODER))
    return vae, golden["in.latent"] * vae.scaling_factor


CHECKS = (
    Check(lambda g: bool(g.names("in.video_")), encode),
    Check(lambda g: g.has("in.latent", "out.chunked"), decode_chunked),
    Check(lambda g: g.has("in.latent") and not g.has("out.chunked"), decode_onego),
)
