"""VAE Decode: a segment's latents to frames, and the motion frames for the next segment."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..hallo3.errors import InputError, ShapeError
from ..hallo3.identity import Identity
from ..hallo3.latents import collect
from ..hallo3.presets import HALLO3
from ..hallo3.shapes import LatentShape
from .host import vae as host_vae
from .sockets import KEEP, IdentityType
from .values import check_socket, images_of


class Hallo3VAEDecode(io.ComfyNode):
    """LATENT to IMAGE, in the original's slices."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3VAEDecode",
            display_name="Hallo3 VAE Decode",
            category="Hallo3",
            description=(
                "Decodes a segment the way the original does, slice by slice; ComfyUI's VAE Decode gives "
                "slightly other pictures. Puts out the segment's new frames, and the motion frames that the "
                "next segment goes on from."
            ),
            search_aliases=["hallo3", "decode video", "3d vae"],
            inputs=[
                io.Latent.Input("samples", tooltip="Latents of one segment."),
                io.Vae.Input("vae", tooltip="CogVideoX's 3D VAE, or that of Load Hallo3 Built-in."),
                IdentityType.Input(
                    "identity",
                    optional=True,
                    tooltip="Takes the bars off that a square portrait was given. Left out, they stay.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The frames this segment adds to the video."),
                io.Image.Output("motion_frames", tooltip="For the next segment; with their bars."),
            ],
        )

    @classmethod
    def execute(cls, samples: Any, vae: Any, identity: Identity | None = None) -> io.NodeOutput:
        latents = _latents(samples, identity)
        host_vae.check_vae(vae)
        _check_channels(latents, vae)
        whole = LatentShape(*latents.shape[2:]).video.frames
        first, last, _ = samples.get(KEEP, (0, whole, None))
        overlap = first or HALLO3.segment.motion_frames
        frames = collect(host_vae.decode(vae, latents), whole)[0].transpose(0, 1)
        kept = frames[first:last]
        if identity is not None:
            kept = identity.canvas.uncrop(kept)
        return io.NodeOutput(images_of(kept), images_of(frames[-overlap:]))


def _latents(samples: Any, identity: Identity | None) -> Tensor:
    """The latents of a LATENT, if they can be one segment's. Raises ``ShapeError`` or ``InputError``."""
    latents = samples.get("samples") if isinstance(samples, dict) else None
    if not isinstance(latents, Tensor) or latents.ndim != 5 or len(latents) != 1:
        raise ShapeError(
            "These latents are not one segment's.",
            found=str(list(latents.shape)) if isinstance(latents, Tensor) else "no latents",
            expected="[1, channels, frames, height, width]",
            do="connect the LATENT of Hallo3 Sampler or of a sampler; of a batch, one by Latent From Batch",
        )
    made = samples.get(KEEP, (0, 0, latents.shape[2]))[2]
    if made != latents.shape[2]:
        raise ShapeError(
            "These latents have been cut or joined.",
            found=f"{latents.shape[2]} latent frames",
            expected=f"the {made} of the segment they come from",
            do="decode each segment by itself and join the images",
        )
    if not bool(latents.isfinite().all()):
        raise InputError(
            "These latents hold values that are not numbers.",
            found="NaN or infinity",
            expected="finite latents",
            do="sample again with other settings; nothing can be seen in these",
        )
    if identity is not None:
        check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
        size = LatentShape(*latents.shape[2:]).video
        canvas = tuple(identity.canvas.pixels.shape[-2:])
        if (size.height, size.width) != canvas:
            raise ShapeError(
                "The identity does not belong to these latents.",
                found=f"an identity on a canvas of {canvas[1]} x {canvas[0]} px",
                expected=f"{size.width} x {size.height} px",
                do="connect the identity that was sampled with",
            )
    return latents


def _check_channels(latents: Tensor, vae: Any) -> None:
    channels = vae.latent_channels
    if latents.shape[1] != channels:
        raise ShapeError(
            "These latents are not this VAE's.",
            found=f"{latents.shape[1]} channels",
            expected=f"{channels} channels",
            do="connect latents that were sampled with a Hallo3 model",
        )
