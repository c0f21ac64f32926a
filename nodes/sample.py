"""Sample: the portrait and the speech that come with the pack."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..hallo3.errors import InputError
from ..hallo3.media.picture import read_picture
from ..hallo3.media.sound import read_recording
from .values import audio_of, images_of

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
PORTRAITS = ("portrait", "portrait_2", "portrait_3")
"""The pictures there, without their ending."""


class Hallo3Sample(io.ComfyNode):
    """Something to begin with: IMAGE and AUDIO."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3Sample",
            display_name="Hallo3 Sample",
            category="Hallo3",
            description=(
                "A drawn portrait and a spoken sentence, to try a workflow at once. For your own, connect "
                "Load Image and Load Audio instead; the built-in model knows portraits like these."
            ),
            search_aliases=["hallo3", "example portrait", "example speech"],
            inputs=[
                io.Combo.Input(
                    "portrait",
                    options=list(PORTRAITS),
                    default=PORTRAITS[0],
                    optional=True,
                    tooltip="Which of the drawn people.",
                )
            ],
            outputs=[
                io.Image.Output("portrait", tooltip="A drawn portrait, free to use (CC0)."),
                io.Audio.Output("speech", tooltip="A spoken sentence, free to use (CC0)."),
            ],
        )

    @classmethod
    def execute(cls, portrait: str = PORTRAITS[0]) -> io.NodeOutput:
        if portrait not in PORTRAITS:
            raise InputError(
                "There is no such portrait.",
                found=repr(portrait),
                expected=", ".join(PORTRAITS),
                do="choose one of these",
            )
        picture = read_picture(SAMPLES / f"{portrait}.png")
        return io.NodeOutput(images_of(picture[None]), audio_of(read_recording(SAMPLES / "speech.wav")))
