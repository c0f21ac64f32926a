"""Save Hallo3 Identity: a portrait is looked at once and never again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..hallo3.errors import InputError
from ..hallo3.identity import Identity
from ..hallo3.identity_file import SUFFIX, check_made_for, write_identity
from .host.identities import IDENTITY_FOLDER
from .host.model import config_of, fingerprint_of
from .sockets import IdentityType
from .values import check_socket


class Hallo3SaveIdentity(io.ComfyNode):
    """HALLO3_IDENTITY to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3SaveIdentity",
            display_name="Save Hallo3 Identity",
            category="Hallo3/identity",
            description=(
                "Keeps what was extracted of a portrait. Load Hallo3 Identity gives it back, bit for bit: "
                "no reference network, face analyzer or portrait is needed then. The file holds the "
                "portrait, so treat it like one."
            ),
            search_aliases=["hallo3", "save identity", "save face", "avatar"],
            is_output_node=True,
            inputs=[
                IdentityType.Input("identity", tooltip="From Hallo3 Identity Reference."),
                io.Model.Input("model", tooltip="The model it is for: with another one it will be refused."),
                io.String.Input(
                    "filename_prefix",
                    default="person",
                    tooltip="Its name, in hallo3_identities of ComfyUI's output folder; a number is added.",
                ),
            ],
            outputs=[IdentityType.Output("identity", tooltip="The same identity, to go on with.")],
        )

    @classmethod
    def execute(cls, identity: Identity, model: Any, filename_prefix: str) -> io.NodeOutput:
        check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
        mark = fingerprint_of(model)
        check_made_for(identity, config_of(model), lambda: mark)
        output = Path(folder_paths.get_output_directory()) / IDENTITY_FOLDER
        wanted = filename_prefix.strip().replace("\\", "/")
        plain = wanted.isprintable() and bool(wanted) and not wanted.endswith("/")
        if not plain or not (output / wanted).resolve().is_relative_to(output.resolve()):
            raise InputError(
                "The identity cannot be saved there.",
                found=repr(filename_prefix)[:100],
                expected=f"a name inside of {IDENTITY_FOLDER} in ComfyUI's output folder",
                do="use a name such as person, or people/anna",
            )
        folder, name, number, below, _ = folder_paths.get_save_image_path(wanted, str(output))
        path = Path(folder) / f"{name}_{number:05}_{SUFFIX}"
        write_identity(identity, mark, path)
        shown = "/".join(part for part in (IDENTITY_FOLDER, below, path.name) if part)
        return io.NodeOutput(identity, ui=ui.PreviewText(f"{shown} ({path.stat().st_size / 1e6:.1f} MB)"))
