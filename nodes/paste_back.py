"""Paste Back: frames into the photograph that their portrait was cut out of."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..hallo3.errors import InputError, ShapeError
from ..hallo3.identity import Identity
from ..hallo3.media.surroundings import Surroundings
from .host.memory import check_memory
from .sockets import IdentityType
from .values import check_socket, images_of

ADVICE = "take the video of Hallo3 Extrapolate with paste_back on: that fits at any length"


LIKE = 0.01
"""How far proportions may be from the crop's."""


class Hallo3PasteBack(io.ComfyNode):
    """IMAGE and HALLO3_IDENTITY to IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3PasteBack",
            display_name="Hallo3 Paste Back",
            category="Hallo3/identity",
            description=(
                "Puts the animated crop back into the whole photograph, with a soft edge: a tall photograph "
                "gives a tall video. For frames from Hallo3 VAE Decode, or ones that other nodes have "
                "worked on. Hallo3 Extrapolate does it by itself where paste_back is on."
            ),
            search_aliases=["hallo3", "composite", "uncrop", "stitch", "paste back"],
            inputs=[
                io.Image.Input("images", tooltip="Frames of the crop, in any size of its proportions."),
                IdentityType.Input("identity", tooltip="The identity that they were made with."),
            ],
            outputs=[io.Image.Output("images", tooltip="Frames of the photograph.")],
        )

    @classmethod
    def execute(cls, images: Any, identity: Identity) -> io.NodeOutput:
        check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
        around, frames = photograph_of(identity), _frames_of(images, identity)
        needed = len(frames) * 3 * around.height * around.width * 4
        check_memory(needed, f"{len(frames)} frames of {around.width} x {around.height} px", ADVICE)
        pasted = torch.empty(len(frames), around.height, around.width, 3)
        for index in range(len(frames)):
            pasted[index] = images_of(around.around(frames[index : index + 1].float().cpu().clamp(0, 1)))[0]
        return io.NodeOutput(pasted)


def photograph_of(identity: Identity) -> Surroundings:
    """What frames of an identity are pasted back into. Raises ``InputError`` if there is nothing."""
    if identity.surroundings is None:
        raise InputError(
            "There is no photograph to paste the frames back into.",
            found="an identity that was saved without one",
            expected="an identity with the photograph it was made of",
            do="make the identity again with Hallo3 Identity Reference",
        )
    return identity.surroundings


def _frames_of(images: Any, identity: Identity) -> Tensor:
    """IMAGE [F, h, w, 3] -> [F, 3, h, w]. Raises ``ShapeError`` for other proportions than the crop's."""
    wide, tall = identity.canvas.width, identity.canvas.height
    found = f"a {type(images).__name__}"
    if isinstance(images, Tensor) and images.ndim == 4 and images.shape[3] >= 3 and len(images):
        height, width = images.shape[1:3]
        like = abs(width * tall - height * wide) <= LIKE * height * wide
        if like and 2 * height >= tall and bool(images.isfinite().all()):
            return images[..., :3].permute(0, 3, 1, 2)
        found = f"frames of {width} x {height} px" if not like else "frames that are too small, or not finite"
    elif isinstance(images, Tensor):
        found = str(list(images.shape))
    raise ShapeError(
        "The frames do not fit the identity.",
        found=found,
        expected=f"frames of {wide} x {tall} px, or enlarged in these proportions",
        do="connect the images that were made with this identity, without bars",
    )
