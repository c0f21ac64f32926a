"""Identity Reference: a portrait to who is on it, once for all segments."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..hallo3.face.analysis import Face, FaceAnalyzer, analyze
from ..hallo3.face.choosing import Choice
from ..hallo3.face.spaces import analyzer_for
from ..hallo3.identity import extract_identity
from ..hallo3.media.overview import overview
from .host import vae as host_vae
from .host.faces import faces_folder
from .host.loading import ReferenceSocket
from .host.reference import features_of
from .host.said import warnings_shown
from .sockets import FaceAnalyzer as FaceAnalyzerSocket
from .sockets import Identity, ReferenceNetwork
from .values import check_socket, face_mask_of, images_of, picture_of


class Hallo3IdentityReference(io.ComfyNode):
    """IMAGE to HALLO3_IDENTITY, and a picture of what is used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3IdentityReference",
            display_name="Hallo3 Identity Reference",
            category="Hallo3",
            description=(
                "Looks at a portrait once: who is on it, and how the canvas is cut. The picture it shows is "
                "what the model gets: dark parts are cut off, striped bars are added, the box is "
                "what counts as the face."
            ),
            search_aliases=["hallo3", "portrait", "reference image", "face identity"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("portrait", tooltip="One picture of one person, at least 64 px a side."),
                io.Vae.Input("vae", tooltip="CogVideoX's 3D VAE, or that of Load Hallo3 Built-in."),
                ReferenceNetwork.Input(
                    "reference_network", tooltip="The reference network that belongs to the model."
                ),
                FaceAnalyzerSocket.Input(
                    "face_analyzer",
                    optional=True,
                    tooltip=(
                        "Another face analyzer than the model's own. Left out: drawn faces for the "
                        "built-in model, antelopev2 for the released one."
                    ),
                ),
                io.Mask.Input(
                    "face_mask",
                    optional=True,
                    tooltip="Where the face is, if you want to say it yourself; drawn on the portrait.",
                ),
            ],
            outputs=[
                Identity.Output("identity", tooltip="The portrait's identity, for any number of speeches."),
                io.Image.Output("overview", tooltip="What is used of the portrait."),
            ],
        )

    @classmethod
    def execute(
        cls,
        portrait: Any,
        vae: Any,
        reference_network: ReferenceSocket,
        face_analyzer: FaceAnalyzer | None = None,
        face_mask: Any = None,
    ) -> io.NodeOutput:
        check_socket(reference_network, ReferenceSocket, "reference network", "Load Hallo3 Reference Network")
        picture, config = picture_of(portrait), reference_network.config
        if face_analyzer is not None:
            check_socket(face_analyzer, FaceAnalyzer, "face analyzer", "a face analyzer node")
        mask = None if face_mask is None else face_mask_of(face_mask, picture)
        with warnings_shown():
            own = face_analyzer or analyzer_for(config.face, faces_folder(), choice=Choice(mask=mask))
            face = analyze(picture, own, config.face)
        if mask is not None:
            face = Face(mask=mask, embedding=face.embedding)
        host_vae.check_vae(vae, config.vae)
        shape = config.segment.shape
        identity = extract_identity(
            picture,
            face,
            shape,
            encode=lambda pixels: host_vae.encode(vae, pixels) * config.vae.scaling_factor,
            features=lambda latents: features_of(reference_network, latents),
        )
        shown = images_of(overview(picture, face.mask, shape)[None])
        return io.NodeOutput(identity, shown, ui=ui.PreviewImage(shown, cls=cls))
