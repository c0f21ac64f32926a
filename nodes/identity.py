"""Nodes for identities: extract, save, load, paste back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..hallo3.errors import InputError, ShapeError, sanitize
from ..hallo3.face.analyzer import Face
from ..hallo3.face.registry import analyze_face
from ..hallo3.face.selection import FaceChoice
from ..hallo3.identity import Identity, Provenance, build_identity, frame_portrait
from ..hallo3.identity_file import IDENTITY_SUFFIX, check_model, read_identity, write_identity
from ..hallo3.media.framing import FRAMINGS
from ..hallo3.media.paste_back import PasteBack
from ..hallo3.residency import try_again
from ..hallo3.storage.files import write_error
from ..hallo3.units import format_bytes
from .comfy import vae as host_vae
from .comfy.faces import (
    IDENTITY_FOLDER,
    create_face_analyzer,
    face_file_states,
    find_identity,
    list_identities,
)
from .comfy.loading import ReferenceSocket, extract_features
from .comfy.memory import SecondTry
from .comfy.model import approximations, config_of, model_fingerprint
from .comfy.picture_file import use_picture_file
from .comfy.progress import check_memory, show_messages, show_warning
from .comfy.workflow import NAMED_FILES, file_state
from .convert import check_socket, to_face_box, to_face_mask, to_images, to_picture, to_preview
from .schema import FREE_MEMORY, Hallo3Node, IdentityType, ReferenceNetworkType, make_schema

USE_EXTRAPOLATE = "use the video output of Hallo3 Talking Video with paste_back on: it works at any length"
ERROR, WHOLE_PICTURE = "error", "whole picture"
NO_FACE = (ERROR, WHOLE_PICTURE)


class Hallo3IdentityReference(Hallo3Node):
    MEMORY_ADVICE = f"use a smaller portrait, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3IdentityReference",
            search_aliases=["hallo3", "portrait", "reference image", "face identity", "face crop"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("portrait"),
                io.Vae.Input("vae"),
                ReferenceNetworkType.Input("reference_network"),
                io.Mask.Input("face_mask", optional=True),
                io.BoundingBox.Input("face_box", optional=True, force_input=True),
                io.Combo.Input("framing", options=list(FRAMINGS), default="auto", optional=True),
                io.Int.Input("face", default=0, min=0, max=1000, optional=True),
                io.Combo.Input("no_face", options=list(NO_FACE), default=ERROR, optional=True),
                io.Boolean.Input("unverified", default=False, optional=True, advanced=True),
            ],
            outputs=[IdentityType.Output("identity"), io.Image.Output("overview")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Run again if files of the face analyzer have changed."""
        return face_file_states()

    @classmethod
    def execute(
        cls,
        portrait: Any,
        vae: Any,
        reference_network: ReferenceSocket,
        face_mask: Any = None,
        face_box: Any = None,
        framing: str = "auto",
        face: int = 0,
        no_face: str = ERROR,
        unverified: bool = False,
    ) -> io.NodeOutput:
        check_socket(reference_network, ReferenceSocket, "reference network", "Load Hallo3 Reference Network")
        config = reference_network.config
        host_vae.check_vae(vae, config.vae)
        with show_messages():
            picture = use_picture_file(
                portrait,
                to_picture(portrait),
                "portrait",
                masked=face_mask is not None,
                sized=face_mask is not None or face_box is not None,
            )
            choice = FaceChoice(
                index=face,
                box=None if face_box is None else to_face_box(face_box),
                mask=None if face_mask is None else to_face_mask(face_mask, picture),
                whole_picture=no_face == WHOLE_PICTURE,
            )
            analyzer = create_face_analyzer(config.face, choice, unverified=unverified)
            face_analysis = analyze_face(picture, analyzer, config.face, choice)
            identity = extract_identity(picture, face_analysis, framing, vae, reference_network)
        preview = to_preview(identity)
        return io.NodeOutput(identity, preview, ui=ui.PreviewImage(preview, cls=cls))


def extract_identity(
    picture: Tensor, face: Face, framing: str, vae: Any, reference_network: ReferenceSocket
) -> Identity:
    """The identity of the face, or faces, that were found in a picture [3, h, w]."""
    config, second_try = reference_network.config, SecondTry(vae.device)

    def encode(pixels: Tensor) -> Tensor:
        latents = try_again(lambda: host_vae.encode(vae, pixels), second_try, "portrait")
        return latents * config.vae.scaling_factor

    def features(latents: Tensor) -> tuple[Tensor, ...]:
        return try_again(lambda: extract_features(reference_network, latents), second_try, "reference")

    identity = build_identity(
        frame_portrait(picture, face, config.segment.shape, framing),
        config.face.space,
        encode=encode,
        features=features,
        keep_photograph=True,
    )
    numbers = str(reference_network.dtype).removeprefix("torch.")
    return replace(identity, provenance=Provenance(numbers, approximations()))


NO_IDENTITY = "none yet: use Save Hallo3 Identity"
"""The only choice while there is no file."""


class Hallo3LoadIdentity(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3LoadIdentity",
            category="Hallo3/identity",
            search_aliases=["hallo3", "load identity", "load face", "avatar"],
            has_intermediate_output=True,
            inputs=[io.Combo.Input("file", options=list_identities() or [NO_IDENTITY])],
            outputs=[IdentityType.Output("identity"), io.Image.Output("overview")],
        )

    @classmethod
    def validate_inputs(cls, file: object) -> bool | str:
        """Report a missing file before the workflow runs."""
        if find_identity(file) is not None:
            return True
        if file in (NO_IDENTITY, ""):
            return (
                "There is no saved identity yet: run a workflow with Save Hallo3 Identity once, press R, and "
                "choose the file here."
            )
        name = sanitize(repr(file)[:100])
        return f"There is no identity {name}: save one with Save Hallo3 Identity, or choose another."

    @classmethod
    def fingerprint_inputs(cls, file: object) -> Any:
        """Detect a replaced file."""
        return file_state(find_identity(file))

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        identity = read_identity(find_identity(file) or Path(file))
        if warning := identity.approximation_warning(approximations()):
            show_warning(warning)
        preview = to_preview(identity)
        return io.NodeOutput(identity, preview, ui=ui.PreviewImage(preview, cls=cls))


class Hallo3PasteBack(Hallo3Node):
    MEMORY_ADVICE = USE_EXTRAPOLATE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3PasteBack",
            category="Hallo3/identity",
            search_aliases=["hallo3", "composite", "uncrop", "stitch", "paste back"],
            inputs=[io.Image.Input("images"), IdentityType.Input("identity")],
            outputs=[io.Image.Output("images")],
        )

    @classmethod
    def execute(cls, images: Any, identity: Identity) -> io.NodeOutput:
        check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
        photograph, frames = get_paste_back(identity), _crop_frames(images, identity)
        width, height = photograph.width, photograph.height
        needed = len(frames) * 3 * height * width * 4
        check_memory(needed, f"{len(frames)} frames of {width} x {height} px", USE_EXTRAPOLATE)
        pasted = torch.empty(len(frames), height, width, 3)
        for index in range(len(frames)):
            frame = frames[index : index + 1].float().cpu().clamp(0, 1)
            pasted[index] = to_images(photograph.paste(frame))[0]
        return io.NodeOutput(pasted)


def get_paste_back(identity: Identity) -> PasteBack:
    """The photograph to paste frames into. Raises ``InputError`` if the identity has none."""
    if identity.paste_back is None:
        raise InputError(
            "This identity has no photograph to paste into.",
            found="an identity saved without its photograph",
            expected="an identity that contains its photograph",
            fix="create the identity again with Hallo3 Identity Reference",
        )
    return identity.paste_back


def _crop_frames(images: Any, identity: Identity) -> Tensor:
    """IMAGE [F, h, w, 3] -> [F, 3, h, w]. Raises ``ShapeError`` unless it has the crop's aspect ratio."""
    wide, tall = identity.canvas.width, identity.canvas.height
    found = f"a {type(images).__name__}"
    if isinstance(images, Tensor) and images.ndim == 4 and images.shape[3] >= 3 and len(images):
        height, width = images.shape[1:3]
        similar = abs(width * tall - height * wide) <= 0.01 * height * wide
        if similar and 2 * height >= tall and bool(images.isfinite().all()):
            return images[..., :3].permute(0, 3, 1, 2)
        size = f"frames of {width} x {height} px"
        found = "frames that are too small, or not finite" if similar else size
    elif isinstance(images, Tensor):
        found = str(list(images.shape))
    raise ShapeError(
        "The frames do not fit the identity.",
        found=found,
        expected=f"frames of {wide} x {tall} px, or larger with this aspect ratio",
        fix="connect images rendered with this identity, without padding bars",
    )


MAX_NAME_BYTES, MAX_FOLDERS = 200, 10
"""Of a name to save under; file systems take 255 bytes, and a number and an ending are added."""


class Hallo3SaveIdentity(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3SaveIdentity",
            category="Hallo3/identity",
            search_aliases=["hallo3", "save identity", "save face", "avatar"],
            is_output_node=True,
            inputs=[
                IdentityType.Input("identity"),
                io.Model.Input("model"),
                io.String.Input("filename_prefix", default="person"),
            ],
            outputs=[IdentityType.Output("identity")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Save again if the file was deleted or replaced."""
        return NAMED_FILES.losses()

    @classmethod
    def execute(cls, identity: Identity, model: Any, filename_prefix: str) -> io.NodeOutput:
        check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
        config, fingerprint = config_of(model), model_fingerprint(model)
        check_model(identity, config, lambda: fingerprint)
        output = Path(folder_paths.get_output_directory()) / IDENTITY_FOLDER
        prefix = filename_prefix.strip().replace("\\", "/")
        parts = prefix.split("/")
        valid = prefix.isprintable() and bool(parts[-1]) and len(parts) <= MAX_FOLDERS
        valid = valid and all(len(part.encode()) <= MAX_NAME_BYTES for part in parts)
        if not valid or not (output / prefix).resolve().is_relative_to(output.resolve()):
            raise InputError(
                "The identity cannot be saved under this name.",
                found=repr(filename_prefix)[:100],
                expected=f"a name inside {IDENTITY_FOLDER} in ComfyUI's output folder",
                fix="use a name such as person, or people/anna",
            )
        try:
            folder, name, number, below, _ = folder_paths.get_save_image_path(prefix, str(output))
        except OSError as error:
            raise write_error("The identity cannot be saved.", output / prefix, error) from error
        path = Path(folder) / f"{name}_{number:05}_{IDENTITY_SUFFIX}"
        write_identity(identity, fingerprint, path)
        NAMED_FILES.add(path)
        shown = "/".join(part for part in (IDENTITY_FOLDER, below, path.name) if part)
        return io.NodeOutput(identity, ui=ui.PreviewText(f"{shown} ({format_bytes(path.stat().st_size)})"))
