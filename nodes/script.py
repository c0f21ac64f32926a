"""Hallo3 Script: prompts by time."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..hallo3.errors import InputError
from ..hallo3.media.plots import draw_speech
from ..hallo3.script import parse_script
from .comfy.cues import CUE
from .comfy.model import Conditioning
from .comfy.progress import show_messages
from .comfy.speech import SpeechSocket
from .convert import check_socket, to_images
from .schema import FREE_MEMORY, Hallo3Node, SpeechType, make_schema


class Hallo3Script(Hallo3Node):
    MEMORY_ADVICE = FREE_MEMORY

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3Script",
            search_aliases=[
                "hallo3",
                "prompt schedule",
                "prompt travel",
                "timed prompts",
                "subtitles",
                "srt",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Clip.Input("clip"),
                SpeechType.Input("speech"),
                io.String.Input("script", default="", multiline=True),
                io.String.Input("prompt", default="", multiline=True, optional=True),
            ],
            outputs=[io.Conditioning.Output("positive"), io.Image.Output("plot")],
        )

    @classmethod
    def execute(cls, clip: Any, speech: SpeechSocket, script: str, prompt: str = "") -> io.NodeOutput:
        check_socket(speech, SpeechSocket, "speech", "Hallo3 Encode Speech")
        if not hasattr(clip, "encode_from_tokens_scheduled"):
            raise InputError(
                "No text encoder is connected.",
                found=f"a {type(clip).__name__}",
                expected="a CLIP",
                fix="connect Load CLIP (type cogvideox), or the clip of Load Hallo3 Built-in",
            )
        parsed, plan = parse_script(script), speech.speech.plan
        with show_messages():
            prompts = parsed.prompts(plan, prompt)
        looks = [cue for cue in parsed.cues if cue.prompt]
        texts: dict[str, Conditioning] = {
            text: clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for text in dict.fromkeys([prompt, *(cue.prompt for cue in looks)])
        }
        positive = [
            [tensor if prompt.strip() else torch.zeros_like(tensor), extras]  # no prompt is zero text
            for tensor, extras in texts[prompt]
        ]
        for cue in looks:
            positive += [[tensor, {**extras, CUE: cue}] for tensor, extras in texts[cue.prompt]]
        chart = draw_speech(speech.loudness, plan.starts, gains=speech.gains, prompts=prompts)
        image = to_images(chart[None])
        return io.NodeOutput(positive, image, ui=ui.PreviewImage(image, cls=cls))
