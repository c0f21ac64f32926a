"""Identity Reference: a portrait to who is on it, once for all segments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ..hallo3.face.analysis import FaceAnalyzer
from ..hallo3.face.choosing import Choice
from ..hallo3.face.chosen import analyze_chosen
from ..hallo3.identity import Made, extract_identity, frame_portrait
from ..hallo3.media.framing import FRAMINGS
from .host import vae as host_vae
from .host.approximate import approximations
from .host.faces import files_seen, own_analyzer
from .host.loading import ReferenceSocket
from .host.reference import features_of
from .host.said import warnings_shown
from .sockets import FaceAnalyzerType, IdentityType, ReferenceNetworkType
from .values import check_socket, check_word, face_box_of, face_mask_of, picture_of, shown_of

ERROR, WHOLE_PICTURE = "error", "whole picture"
NO_FACE = (ERROR, WHOLE_PICTURE)
MOST_FACES = 1000


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
                "what the model gets: dark parts are cut off, striped bars are added, faces have numbers, "
                "and the bright box is what counts as the face."
            ),
            search_aliases=["hallo3", "portrait", "reference image", "face identity", "face crop"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("portrait", tooltip="One picture of one person, at least 64 px a side."),
                io.Vae.Input("vae", tooltip="CogVideoX's 3D VAE, or that of Load Hallo3 Built-in."),
                ReferenceNetworkType.Input(
                    "reference_network", tooltip="The reference network that belongs to the model."
                ),
                FaceAnalyzerType.Input(
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
                io.BoundingBox.Input(
                    "face_box",
                    optional=True,
                    force_input=True,
                    tooltip="The same as a box, from a node that detects things; the first box counts.",
                ),
                io.Combo.Input(
                    "framing",
                    options=list(FRAMINGS),
                    default="auto",
                    optional=True,
                    tooltip=(
                        "face crops round the face; original takes the middle; auto is face unless the "
                        "portrait is square or 3:2. Extrapolate can paste it back (paste_back)."
                    ),
                ),
                io.Int.Input(
                    "face",
                    default=0,
                    min=0,
                    max=MOST_FACES,
                    optional=True,
                    tooltip="Which of several faces, by its number in the picture; 0 is the largest.",
                ),
                io.Combo.Input(
                    "no_face",
                    options=list(NO_FACE),
                    default=ERROR,
                    optional=True,
                    advanced=True,
                    tooltip="Where no face is found: stop, or go on with the whole picture and nobody known.",
                ),
            ],
            outputs=[
                IdentityType.Output(
                    "identity", tooltip="The portrait's identity, for any number of speeches."
                ),
                io.Image.Output("overview", tooltip="What is used of the portrait."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Look again when files for faces have come, gone or changed."""
        return files_seen()

    @classmethod
    def execute(
        cls,
        portrait: Any,
        vae: Any,
        reference_network: ReferenceSocket,
        face_analyzer: FaceAnalyzer | None = None,
        face_mask: Any = None,
        face_box: Any = None,
        framing: str = "auto",
        face: int = 0,
        no_face: str = ERROR,
    ) -> io.NodeOutput:
        check_word("no_face", no_face, NO_FACE)
        check_socket(reference_network, ReferenceSocket, "reference network", "Load Hallo3 Reference Network")
        config = reference_network.config
        if face_analyzer is not None:
            check_socket(face_analyzer, FaceAnalyzer, "face analyzer", "a face analyzer node")
        host_vae.check_vae(vae, config.vae)
        with warnings_shown():
            picture = picture_of(portrait)
            choice = Choice(
                index=face,
                box=None if face_box is None else face_box_of(face_box),
                mask=None if face_mask is None else face_mask_of(face_mask, picture),
                whole_picture=no_face == WHOLE_PICTURE,
            )
            analyzer = face_analyzer or own_analyzer(config.face, choice)
            found = analyze_chosen(picture, analyzer, config.face, choice)
        identity = extract_identity(
            frame_portrait(picture, found, config.segment.shape, framing),
            config.face.space,
            encode=lambda pixels: host_vae.encode(vae, pixels) * config.vae.scaling_factor,
            features=lambda latents: features_of(reference_network, latents),
        )
        numbers = str(reference_network.dtype).removeprefix("torch.")
        identity = replace(identity, made=Made(numbers, approximations()))
        shown = shown_of(identity)
        return io.NodeOutput(identity, shown, ui=ui.PreviewImage(shown, cls=cls))
