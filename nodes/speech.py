"""Encode Speech: a recording to speech features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..hallo3.media.loudness import AS_RECORDED, LEVELS, SILENCES
from ..hallo3.segments import SegmentPlan
from ..hallo3.speech.features import AUTO, HEARINGS
from ..hallo3.speech.preprocess import SpeechPreprocessing
from ..hallo3.speech.seams import FADE, FULL, JOINS, MAX_CHAPTER, SEAMS, cut_plan
from .comfy.speech import encode_speech, vocals_fingerprint
from .comfy.workflow import NAMED_FILES
from .convert import to_images, to_recording
from .schema import FREE_MEMORY, Hallo3Node, SpeechType, make_schema

SEPARATED = "separated"


def seam_inputs() -> list[io.Input]:
    advanced: Any = {"optional": True, "advanced": True}
    return [
        io.Combo.Input("seams", options=list(SEAMS), default=FULL, **advanced),
        io.Float.Input("chapters", default=0.0, min=0.0, max=MAX_CHAPTER, step=0.1, **advanced),
        io.Combo.Input("chapter_join", options=list(JOINS), default=FADE, **advanced),
    ]


def make_cut(seams: str, chapters: float, chapter_join: str) -> Callable[[SegmentPlan, Tensor], SegmentPlan]:
    """From a plan and levels to the plan with these inputs; ``chapters`` 0 is none."""
    if seams == FULL and not chapters:
        return lambda plan, _: plan
    return partial(cut_plan, seams=seams, chapters=chapters or None, chapter_join=chapter_join)


class Hallo3EncodeSpeech(Hallo3Node):
    MEMORY_ADVICE = f"use a shorter recording, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3EncodeSpeech",
            search_aliases=["hallo3", "audio encode", "wav2vec", "lip sync audio"],
            has_intermediate_output=True,
            inputs=[
                io.Audio.Input("audio"),
                io.AudioEncoder.Input("audio_encoder"),
                io.Combo.Input("level", options=list(LEVELS), default=AS_RECORDED, optional=True),
                io.Combo.Input("silence", options=list(SILENCES), default=AS_RECORDED, optional=True),
                io.Combo.Input("hearing", options=list(HEARINGS), default=AUTO, optional=True, advanced=True),
                io.Combo.Input(
                    "vocals", options=[AS_RECORDED, SEPARATED], default=AS_RECORDED, optional=True
                ),
                *seam_inputs(),
            ],
            outputs=[
                SpeechType.Output("speech"),
                io.Int.Output("segments"),
                io.Int.Output("frames"),
                io.Float.Output("fps"),
                io.Image.Output("plot"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, vocals: Any = AS_RECORDED, **_: Any) -> Any:
        """Run again when the separator's file appears, disappears or changes, or the features have gone."""
        return [NAMED_FILES.losses(), vocals_fingerprint() if vocals == SEPARATED else None]

    @classmethod
    def execute(
        cls,
        audio: Any,
        audio_encoder: Any,
        level: str = AS_RECORDED,
        silence: str = AS_RECORDED,
        hearing: str = AUTO,
        vocals: str = AS_RECORDED,
        seams: str = FULL,
        chapters: float = 0.0,
        chapter_join: str = FADE,
    ) -> io.NodeOutput:
        preprocessing = SpeechPreprocessing(level=level, silence=silence, hearing=hearing)
        recording = to_recording(audio)
        socket, plot = encode_speech(
            audio_encoder,
            recording,
            preprocessing,
            vocals=vocals == SEPARATED,
            cut=make_cut(seams, chapters, chapter_join),
        )
        plan, image = socket.speech.plan, to_images(plot[None])
        preview = ui.PreviewImage(image, cls=cls)
        return io.NodeOutput(socket, len(plan), plan.frames, float(plan.config.fps), image, ui=preview)
