"""Load Hallo3 Identity: what was kept of a portrait, in place of everything that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..hallo3.identity_file import read_identity
from .host.approximate import approximations
from .host.identities import identities, path_of
from .host.said import warn
from .sockets import IdentityType
from .values import shown_of


class Hallo3LoadIdentity(io.ComfyNode):
    """A file to HALLO3_IDENTITY."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3LoadIdentity",
            display_name="Load Hallo3 Identity",
            category="Hallo3/identity",
            description=(
                "An identity from Save Hallo3 Identity, in place of portrait, reference network and Identity "
                "Reference. It is refused by other models than the one it was saved for."
            ),
            search_aliases=["hallo3", "load identity", "load face", "avatar"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=identities(),
                    tooltip="From hallo3_identities in ComfyUI's output or input folder; R looks again.",
                )
            ],
            outputs=[
                IdentityType.Output("identity", tooltip="The identity as it was saved."),
                io.Image.Output("overview", tooltip="What is used of the portrait."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        """A file that is gone is said before the workflow runs."""
        if path_of(file) is not None:
            return True
        return f"There is no identity {file!r}: save one with Save Hallo3 Identity, or choose another."

    @classmethod
    def fingerprint_inputs(cls, file: str) -> Any:
        """Another file of the same name is another identity."""
        path = path_of(file)
        return [file, *((path.stat().st_mtime_ns, path.stat().st_size) if path else ())]

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        identity = read_identity(path_of(file) or Path(file))
        if told := identity.carries(approximations()):
            warn(told)
        shown = shown_of(identity)
        return io.NodeOutput(identity, shown, ui=ui.PreviewImage(shown, cls=cls))
