"""Encoding in one call, decoding in slices and in one go."""

from __future__ import annotations

import torch

from . import networks
from .directory import FORWARD, Check, Golden, Report


def encode(golden: Golden) -> Report:
    """Moments and sampled latents for every recorded clip length."""
    report = Report()
    vae = networks.vae(networks.weights_of(golden, networks.ENCODER), None)
    for count in sorted(int(name) for name in golden.names("in.video_")):
        clip = golden[f"in.video_{count}"]
        moments = torch.cat(vae.posterior(clip), dim=1)
        report.close(f"out.moments_{count}", moments, golden[f"out.moments_{count}"], FORWARD)
        latents = vae.encode(clip, golden[f"noise_{count}"])
        name = f"out.latent_scaled_{count}"
        report.close(name, latents, golden[name], FORWARD)
    return report


def decode_chunked(golden: Golden) -> Report:
    """Slice by slice as the original's script does it."""
    report = Report()
    vae = networks.vae(None, networks.weights_of(golden, networks.DECODER))
    latents = golden["in.latent"] * vae.scaling_factor
    frames = list(vae.decode(latents))
    report.close("out.chunked", torch.cat(frames, dim=2), golden["out.chunked"], FORWARD)
    if "frames_per_chunk" in golden.about:
        found = [part.shape[2] for part in frames]
        report.exact("frames_per_chunk", found, golden.about["frames_per_chunk"])
    return report


def decode_onego(golden: Golden) -> Report:
    """All latents in one decoder call, and the first few alone."""
    report = Report()
    vae = networks.vae(None, networks.weights_of(golden, networks.DECODER))
    latents = golden["in.latent"] * vae.scaling_factor
    if golden.has("out.one_go"):
        found = next(vae.decode(latents, [latents.shape[2]]))
        report.close("out.one_go", found, golden["out.one_go"], FORWARD)
    for name in golden.names("out.first_"):
        count = int(name.split("_")[0])
        found = next(vae.decode(latents[:, :, :count], [count]))
        report.close(f"out.first_{name}", found, golden[f"out.first_{name}"], FORWARD)
    return report


CHECKS = (
    Check(lambda g: bool(g.names("in.video_")), encode),
    Check(lambda g: g.has("in.latent", "out.chunked"), decode_chunked),
    Check(lambda g: g.has("in.latent") and not g.has("out.chunked"), decode_onego),
)
