"""Extrapolate: the loop over all segments of a speech, with ComfyUI behind its callables."""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import InputImpl, io

from ..hallo3.cost import check_disk
from ..hallo3.identity import Identity
from ..hallo3.journal.folders import size_of
from ..hallo3.journal.job import inherit, open_job
from ..hallo3.journal.jobs import tidy
from ..hallo3.kept import redo_named
from ..hallo3.media.drift_chart import draw_drift
from ..hallo3.video_job import other_machine
from . import inputs
from .extrapolation import Extrapolation, encoding_of, frames_kept, jobs_folder, parent_named
from .host.graph import Graph, running_graph
from .host.memory import check_memory, stoppable
from .host.said import warn
from .host.sampling import Sampling
from .host.speech import SpeechSocket
from .host.trouble import memory_told
from .segment import check_numbers
from .values import check_fit, images_of

IMAGES = 1
"""Place of that output."""
ADVICE = "close other programs, or use a smaller weight_dtype; queue again: it goes on where it stopped"
_MADE: dict[str, Path] = {}
"""Videos by the node that made them last."""


class Hallo3Extrapolate(io.ComfyNode):
    """A whole speech to IMAGE and VIDEO."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hallo3Extrapolate",
            display_name="Hallo3 Extrapolate",
            category="Hallo3",
            description=(
                "The whole talking portrait: samples and decodes segment after segment, each going on from "
                "the last frames of the one before, for as long as the speech lasts. What is finished is "
                "kept: queue the same workflow again after a stop, and it goes on."
            ),
            search_aliases=[
                "hallo3",
                "talking portrait",
                "talking head",
                "lip sync",
                "long video",
                "animate",
            ],
            inputs=[
                *inputs.networks(),
                *inputs.who_and_what(),
                inputs.seed(),
                *inputs.steps_and_guidance(),
                inputs.motion_drop(),
                inputs.positive(),
                *inputs.sampling_sockets(),
                *inputs.video_file(),
                *inputs.going_on(),
                inputs.paste_back(),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The finished video with its sound, for Save Video."),
                io.Image.Output(
                    "images",
                    tooltip=(
                        "Its frames, 25 a second, for other nodes. They must all fit into memory; leave it "
                        "unconnected for long videos."
                    ),
                ),
                io.String.Output(
                    "job",
                    tooltip="What the video is kept as, for continue_from of another Hallo3 Extrapolate.",
                ),
                io.Image.Output(
                    "drift",
                    tooltip="Sharpness, colour, seams, likeness if measured, over time; for Preview Image.",
                ),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Run again when images are connected later, and when the video has been taken away."""
        node = str(cls.hidden.unique_id) if cls.hidden else ""
        graph = running_graph(node) if node else None
        gone = node in _MADE and not _MADE[node].is_file()
        return [graph is None or graph.connected(node, IMAGES), gone]

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        identity: Identity,
        speech: SpeechSocket,
        seed: int,
        steps: int,
        guidance_scale: float,
        motion_drop: float,
        positive: Any = None,
        guider: Any = None,
        sampler: Any = None,
        sigmas: Any = None,
        codec: str = "h264",
        quality: int = -1,
        redo: str = "",
        take: int = 1,
        continue_from: str = "",
        start_again: int = 0,
        mark: bool = True,
        paste_back: bool = False,
    ) -> io.NodeOutput:
        del start_again  # it is part of the workflow that a job is known by
        check_numbers(seed, motion_drop, steps, guidance_scale)
        sampling = Sampling(model, steps, guidance_scale, positive, guider, sampler, sigmas)
        check_fit(identity, speech, vae, sampling.patcher)
        dynprompt = cls.hidden.dynprompt if cls.hidden else None
        graph = Graph(dynprompt) if dynprompt is not None else None
        node = str(cls.hidden.unique_id) if graph else ""
        jobs = jobs_folder()
        with memory_told(ADVICE), ExitStack() as stack:
            parent = parent_named(jobs, continue_from)
            made = Extrapolation(
                sampling=sampling,
                vae=vae,
                identity=identity,
                socket=speech,
                seed=seed,
                motion_drop=motion_drop,
                encoding=encoding_of(codec, quality),
                mark=mark,
                paste_back=paste_back,
                graph=graph,
                node=node,
                parent=stack.enter_context(open_job(jobs, parent, stoppable)) if parent else None,
            )
            wanted = graph is None or graph.connected(node, IMAGES)
            return _output(made, stack, jobs, wanted, redo, take)


def _output(
    made: Extrapolation, stack: ExitStack, jobs: Path, wanted: bool, redo: str, take: int
) -> io.NodeOutput:
    made.encoding.check(made.suffix, *made.size)
    about = made.about()
    again = redo_named(redo, take, about.segments, about.segments - len(made.plan))
    size = about.frames, made.size[1], made.size[0], 3
    if wanted:
        check_memory(math.prod(size) * 4, f"{about.frames} frames of {size[2]} x {size[1]} px")
    tidy(jobs, about.key)
    if told := other_machine(jobs, about):
        warn(told)
    job = stack.enter_context(open_job(jobs, about, stoppable))
    check_disk(made.cost(jobs, wanted), jobs, size_of(job.folder))
    if made.parent is not None:
        inherit(job, made.parent)
    video = made.video_job(jobs, job)
    images, filled = torch.empty(size) if wanted else None, 0
    for kept in made.make(video, again, wanted):
        if images is not None:
            frames = frames_kept(video, kept)
            images[filled : filled + len(frames)] = frames.permute(0, 2, 3, 1)
            filled += len(frames)
    path = job.folder / f"video{made.suffix}"
    video.join(path)
    with suppress(OSError):  # a player may have it open
        (job.folder / f"so_far{made.suffix}").unlink()
    if made.node:
        _MADE[made.node] = path
    chart = draw_drift(video.drifts(), made.plan.config.new_frames / made.plan.config.fps)
    return io.NodeOutput(InputImpl.VideoFromFile(str(path)), images, job.folder.name, images_of(chart[None]))
