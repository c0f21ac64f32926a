"""Sample: the portrait and the speech that come with the pack."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..hallo3.media.picture import read_picture
from ..hallo3.media.sound import read_recording
from .values import audio_of, images_of

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


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
                "Load Image and Load Audio instead."
            ),
            search_aliases=["hallo3", "example portrait", "example speech"],
            inputs=[],
            outputs=[
                io.Image.Output("portrait", tooltip="A drawn portrait, free to use (CC0)."),
                io.Audio.Output("speech", tooltip="A spoken sentence, free to use (CC0)."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        picture = read_picture(SAMPLES / "portrait.png")
        return io.NodeOutput(images_of(picture[None]), audio_of(read_recording(SAMPLES / "speech.wav")))
