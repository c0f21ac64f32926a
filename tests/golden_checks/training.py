"""The training loss, with the original's draws."""

from __future__ import annotations

import torch

from training.loss import Batch, Draw, velocity_loss

from . import networks
from .directory import FORWARD, Check, Golden, Report, swap


def train_loss(golden: Golden) -> Report:
    """Noisy latents, the network's answer and the loss of every sample."""
    report, config = Report(), networks.config_of(golden.about)
    batch = Batch(
        latents=swap(golden["in.latents"]),
        image_latents=swap(golden["in.concat_images"]),
        face_latents=swap(golden["in.mask_ref_latent"]),
        windows=golden["in.audio_windows"],
        face_embedding=golden["in.face_emb"],
        prompt_embeds=golden["in.text"],
    )
    draw = Draw(table_index=golden["draw.idx"], noise=swap(golden["draw.noise"]))
    with torch.inference_mode():
        loss = velocity_loss(
            networks.transformer(golden, config), networks.reference(golden, config), batch, draw
        )
    for name, found in (("mid.noised_x", loss.noisy), ("mid.net_out", loss.velocity)):
        if golden.has(name):
            report.close(name, swap(found), golden[name], FORWARD)
    report.close("out.loss_per_sample", loss.per_sample, golden["out.loss_per_sample"], FORWARD)
    return report


CHECKS = (Check(lambda g: g.has("in.latents", "draw.idx", "draw.noise", "out.loss_per_sample"), train_loss),)
