"""Plan: estimate disk, memory and time of a video before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..hallo3.checkpoints.locate import RELEASE
from ..hallo3.config import BUILT_IN, HALLO3, Hallo3Config
from ..hallo3.errors import InputError
from ..hallo3.geometry import VideoShape
from ..hallo3.identity import Identity
from ..hallo3.jobs.estimate import (
    check_disk,
    estimate_run,
    read_speed,
    read_throughput,
    speed_key,
    throughput_key,
)
from ..hallo3.media.audio import AudioStats
from ..hallo3.media.canvas import fit
from ..hallo3.media.framing import Crop
from ..hallo3.media.paste_back import make_paste_back
from ..hallo3.media.video import VideoEncoding
from ..hallo3.segments import base_ram, plan_segments
from .comfy.progress import check_memory, compute_device
from .convert import check_socket, to_picture, to_recording
from .extrapolate import jobs_folder
from .identity import get_paste_back
from .schema import (
    FREE_MEMORY,
    Hallo3Node,
    IdentityType,
    codec_input,
    make_schema,
    paste_back_input,
    steps_and_guidance,
)

MODELS: dict[str, Hallo3Config] = {"Hallo3": HALLO3, "built-in": BUILT_IN}
LOADED = RELEASE.keys() - {"reference"}  # which is read from its file and let go
WEIGHT_BYTES = {"Hallo3": sum(RELEASE[part].size(16) for part in LOADED), "built-in": 16 << 20}
"""In RAM, of all components that ComfyUI keeps."""
PRECISION = {"Hallo3": "bf16", "built-in": "fp32"}
"""For which Hallo3 Doctor's measurement is read."""


class Hallo3Plan(Hallo3Node):
    MEMORY_ADVICE = f"use a smaller portrait or a shorter recording, or {FREE_MEMORY}"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="Hallo3Plan",
            search_aliases=["hallo3", "estimate", "how long", "disk space", "eta"],
            inputs=[
                io.Audio.Input("audio"),
                io.Combo.Input("model", options=list(MODELS)),
                *steps_and_guidance(),
                io.Image.Input("portrait", optional=True),
                io.Boolean.Input("images", default=False, optional=True),
                codec_input(),
                IdentityType.Input("identity", optional=True),
                paste_back_input(),
            ],
            outputs=[
                io.Audio.Output("audio"),
                io.String.Output("plan"),
                io.Int.Output("segments"),
                io.Int.Output("frames"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        audio: Any,
        model: str,
        steps: int,
        guidance_scale: float,
        portrait: Any = None,
        images: bool = False,
        codec: str = "h264",
        identity: Identity | None = None,
        paste_back: bool = False,
    ) -> io.NodeOutput:
        recording, config = to_recording(audio), MODELS[model]
        steps, guidance_scale = (
            steps or config.defaults.steps,
            guidance_scale or config.defaults.guidance_scale,
        )
        segment, encoding = config.segment, VideoEncoding(codec=codec)
        channels, samples = recording.waveform.shape
        stats = AudioStats(recording.sample_rate, channels, samples=samples)
        plan = plan_segments(stats.length_at(segment.sample_rate), segment)
        size, jobs = _video_size(portrait, identity, paste_back, segment.shape), jobs_folder()
        evaluations = steps * (1 if guidance_scale == 1 else 2)
        key = throughput_key(config.name, compute_device(), evaluations, size, encoding)
        estimate = estimate_run(
            plan,
            segment.shape,
            size,
            codec,
            ram=base_ram(segment) + WEIGHT_BYTES[model],
            features=config.audio.layers * config.audio.channels * 4,
            keep_pixels=images,
            throughput=read_throughput(jobs, key),
        )
        guided = 0 if guidance_scale == 1 else steps
        speed = read_speed(torch.device(compute_device()), speed_key(config, PRECISION[model]))
        pixels = segment.new_frames * size[0] * size[1]
        if speed is not None:
            estimate = estimate.expecting(
                speed.segment_time(guided=guided, unguided=steps - guided, pixels=pixels)
            )
        check_disk(estimate, jobs)
        if images:
            bytes_needed = 4 * 3 * plan.frames * size[0] * size[1]
            check_memory(bytes_needed, f"{plan.frames} frames of {size[0]} x {size[1]} px")
        text = (
            f"video     {plan.frames} frames, {plan.frames / segment.fps:.2f} s, {size[0]} x {size[1]}\n"
            f"segments  {len(plan)}\n{estimate.text()}"
        )
        return io.NodeOutput(audio, text, len(plan), plan.frames, ui=ui.PreviewText(text))


def _video_size(
    portrait: Any, identity: Identity | None, paste_back: bool, shape: VideoShape
) -> tuple[int, int]:
    """(width, height), as of Hallo3 Talking Video; the crop of a portrait is taken to be the middle."""
    if identity is not None:
        check_socket(identity, Identity, "identity", "Hallo3 Identity Reference")
        frame = get_paste_back(identity) if paste_back else identity.canvas
        return frame.width, frame.height
    if paste_back and portrait is None:
        raise InputError(
            "`paste_back` needs a portrait or an identity.",
            found="neither is connected",
            expected="one of them, because its size is the video's",
            fix="connect portrait or identity, or switch paste_back off",
        )
    picture = torch.zeros(3, 200, 300) if portrait is None else to_picture(portrait)
    whole = Crop.whole(*picture.shape[1:])
    frame = make_paste_back(picture, whole, shape) if paste_back else fit(picture, shape)
    return frame.width, frame.height
