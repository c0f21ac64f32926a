"""VAE Decode: a segment's latents to frames, and the motion frames for the next segment."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..hallo3.errors import ShapeError
from ..hallo3.identity import Identity
from ..hallo3.latents import collect
from ..hallo3.presets import HALLO3
from ..hallo3.shapes import LatentShape
from .host import vae as host_vae
from .sockets import KEEP
from .sockets import Identity as IdentitySocket
from .values import images_of


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
                IdentitySocket.Input(
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
        latents = samples["samples"]
        _check(latents, identity)
        whole = LatentShape(*latents.shape[2:]).video.frames
        first, last = samples.get(KEEP, (0, whole))
        frames = collect(host_vae.decode(vae, latents), whole)[0].transpose(0, 1)
        kept = frames[first:last]
        if identity is not None:
            kept = identity.canvas.uncrop(kept)
        motion = frames[-HALLO3.segment.motion_frames :]
        return io.NodeOutput(images_of(kept), images_of(motion))


def _check(latents: Tensor, identity: Identity | None) -> None:
    if latents.ndim != 5 or len(latents) != 1:
        raise ShapeError(
            "These latents are not one segment's.",
            found=str(list(latents.shape)),
            expected="[1, channels, frames, height, width]",
            do="connect the LATENT of Hallo3 Sampler, or of a sampler behind Hallo3 Segment Conditioning",
        )
    if identity is not None:
        size = LatentShape(*latents.shape[2:]).video
        canvas = tuple(identity.canvas.pixels.shape[-2:])
        if (size.height, size.width) != canvas:
            raise ShapeError(
                "The identity does not belong to these latents.",
                found=f"an identity on a canvas of {canvas[1]} x {canvas[0]} px",
                expected=f"{size.width} x {size.height} px",
                do="connect the identity that was sampled with",
            )
