"""Plan: estimate disk, memory and time of a video before anything is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..hallo3.checkpoints.inspect import inspect
from ..hallo3.checkpoints.load import read_model_config
from ..hallo3.checkpoints.locate import RELEASE
from ..hallo3.config import BUILT_IN, HALLO3, Hallo3Config
from ..hallo3.errors import InputError
from ..hallo3.geometry import VideoShape
from ..hallo3.identity import Identity
from ..hallo3.jobs.estimate import (
    RunEstimate,
    check_disk,
    estimate_run,
    read_speed,
    read_throughput,
    speed_key,
    throughput_key,
)
from ..hallo3.media.audio import AudioStats, Recording, to_mono
from ..hallo3.media.canvas import fit
from ..hallo3.media.framing import Crop
from ..hallo3.media.loudness import LoudnessMeter
from ..hallo3.media.paste_back import make_paste_back
from ..hallo3.media.video import VideoEncoding
from ..hallo3.segments import SegmentPlan, base_ram, plan_segments
from ..hallo3.settings import Settings as SamplingSettings
from ..hallo3.settings import settings_for
from ..hallo3.speech.seams import FADE, FULL, SEAMS
from .comfy.loading import FP8
from .comfy.memory import device_memory
from .comfy.progress import check_memory, compute_device, show_text
from .comfy.workflow import Graph, running_node
from .convert import check_socket, to_picture, to_recording
from .extrapolate import IMAGES_OUTPUT, jobs_folder
from .identity import get_paste_back
from .loaders import weights_path
from .schema import (
    FREE_MEMORY,
    Hallo3Node,
    IdentityType,
    codec_input,
    make_schema,
    paste_back_input,
    steps_and_guidance,
)
from .speech import make_cut

MODELS: dict[str, Hallo3Config] = {"Hallo3": HALLO3, "built-in": BUILT_IN}
BUILT_IN_BYTES = 16 << 20
VIDEO = "Hallo3Extrapolate"
TAKEN = "steps", "guidance_scale", "codec", "paste_back"
GUIDANCE = "guidance_scale", "text_strength", "voice_strength"
"""Values of Hallo3 Guider."""
LOADERS = "Hallo3LoadBuiltIn", "Hallo3LoadModel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the bill depends on. ``source`` says where it is from; ``weights`` are bytes by component."""

    source: str
    config: Hallo3Config
    weights: dict[str, int]
    precision: str
    steps: int
    guidance_scale: float
    step_cache: float
    codec: str
    paste_back: bool
    images: bool
    text_strength: str = ""
    voice_strength: str = ""
    prompt: bool = False

    @classmethod
    def typed(cls, model: str, **values: Any) -> Settings:
        """As the node's own widgets say."""
        config, is_built_in = MODELS[model], model == BUILT_IN.name
        return cls(
            source="this node's own settings: it leads to no Hallo3 Talking Video",
            config=config,
            weights={"model": BUILT_IN_BYTES} if is_built_in else _released_weights(prompt=True),
            precision="fp32" if is_built_in else "bf16",
            steps=values.pop("steps") or config.defaults.steps,
            guidance_scale=values.pop("guidance_scale") or config.defaults.guidance_scale,
            step_cache=0.0,
            **values,
        )

    def connected(self, graph: Graph, node: str) -> Settings:
        """As the node Hallo3 Talking Video says; what another node computes for it, as here."""
        values = {
            name: value
            for name, value in graph.values(node).items()
            if name in TAKEN and isinstance(value, str | int | float)
        }
        found = {
            "steps": graph.value_of_source(node, "sigmas", ("Hallo3OriginalSchedule",), "steps"),
            "guidance_scale": graph.value_of_source(node, "guider", ("CFGGuider",), "cfg"),
            "step_cache": graph.value_of_source(node, "sampler", ("Hallo3OriginalSampler",), "step_cache"),
        }
        values |= {name: value for name, value in found.items() if isinstance(value, int | float)}
        own = ("Hallo3Guider",)
        found = {name: graph.value_of_source(node, "guider", own, name) for name in GUIDANCE}
        values |= {name: value for name, value in found.items() if isinstance(value, int | float | str)}
        config, weights, precision = self._read_model(graph, node)
        if not values.get("steps", self.steps):
            values["steps"] = config.defaults.steps
        if not values.get("guidance_scale", self.guidance_scale):
            values["guidance_scale"] = config.defaults.guidance_scale
        return replace(
            self,
            source="the settings of Hallo3 Talking Video",
            config=config,
            weights=weights,
            precision=precision,
            images=bool(graph.consumers(node, IMAGES_OUTPUT)),
            prompt=bool({"positive", "guider"} & graph.values(node).keys()),
            **values,
        )

    @property
    def sampled(self) -> SamplingSettings:
        """As of a run. Raises ``InputError`` for strengths that cannot be read."""
        return settings_for(
            self.config.defaults,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            text_strength=self.text_strength.strip() or None,
            voice_strength=self.voice_strength.strip() or None,
            text=self.prompt,
        )

    def _read_model(self, graph: Graph, node: str) -> tuple[Hallo3Config, dict[str, int], str]:
        """Configuration, weights and precision of the node's model, from the beginning of its file."""
        loader = graph.find_source(node, "model", LOADERS)
        if loader is None:
            return self.config, self.weights, self.precision
        name, dtype = (loader["inputs"].get(each) for each in ("model_name", "weight_dtype"))
        path = weights_path(name) if loader["class_type"] == LOADERS[1] and isinstance(name, str) else None
        if path is None:
            return BUILT_IN, {"model": BUILT_IN_BYTES}, "fp32"
        config = read_model_config(path)
        part = next(each for each in inspect(path).parts if each.part == "transformer")
        size = part.parameters if dtype in FP8 else part.size
        weights = _released_weights(prompt="positive" in graph.values(node)) | {"transformer": size}
        return config, weights, "fp8" if size < 1.5 * part.parameters else "bf16"


def _released_weights(*, prompt: bool) -> dict[str, int]:
    """Of what ComfyUI keeps; the reference network is read from its file and let go."""
    parts = RELEASE.keys() - {"reference", *(() if prompt else ("text_encoder",))}
    return {part: RELEASE[part].size(16) for part in sorted(parts)}


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
    def fingerprint_inputs(cls, **_: Any) -> Any:
        """Run again if the node that it takes its values from is set otherwise."""
        if (found := _find_video_node()) is None:
            return None
        graph, node = found
        return [repr(sorted(graph.values(node).items())), bool(graph.consumers(node, IMAGES_OUTPUT))]

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
        recording = to_recording(audio)
        settings = Settings.typed(
            model,
            steps=steps,
            guidance_scale=guidance_scale,
            codec=codec,
            paste_back=paste_back,
            images=images,
        )
        if (found := _find_video_node()) is not None:
            settings = settings.connected(*found)
        config = settings.config
        segment, encoding = config.segment, VideoEncoding(codec=settings.codec)
        channels, samples = recording.waveform.shape
        stats = AudioStats(recording.sample_rate, channels, samples=samples)
        plan = plan_segments(stats.length_at(segment.sample_rate), segment)
        if found is not None:
            plan = _cut(plan, recording, *found)
        pasted = settings.paste_back and (portrait is not None or identity is not None or paste_back)
        size = _video_size(portrait, identity, pasted, segment.shape)
        note = " without paste_back: connect portrait" * (settings.paste_back and not pasted)
        estimate = _estimate(settings, plan, size, encoding)
        check_disk(estimate, jobs_folder())
        if settings.images:
            bytes_needed = 4 * 3 * plan.frames * size[0] * size[1]
            check_memory(bytes_needed, f"{plan.frames} frames of {size[0]} x {size[1]} px")
        memory = device_memory(config, settings.weights)
        text = (
            f"for       {settings.source}\n"
            f"model     {config.name}, {settings.steps} steps, {_describe_guidance(settings.sampled, plan)}\n"
            f"video     {plan.frames} frames, {plan.frames / segment.fps:.2f} s, "
            f"{size[0]} x {size[1]}{note}\n"
            f"segments  {len(plan)}{_describe_seams(plan)}\n{estimate.text()}\n{memory}"
        ).replace("`hallo3 doctor --measure`", "Hallo3 Doctor with `measure`")
        show_text(text)  # the page shows no text output on a node
        return io.NodeOutput(audio, text, len(plan), plan.frames, ui=ui.PreviewText(text))


def _cut(plan: SegmentPlan, recording: Recording, graph: Graph, node: str) -> SegmentPlan:
    """The plan with the seams of the Hallo3 Encode Speech before the video's node."""
    kind = ("Hallo3EncodeSpeech",)
    seams, chapters = (graph.value_of_source(node, "speech", kind, name) for name in ("seams", "chapters"))
    chapters = float(chapters) if isinstance(chapters, int | float) else 0.0
    if seams not in SEAMS or (seams == FULL and not chapters):
        return plan
    segment = plan.config
    meter = LoudnessMeter(segment.sample_rate, segment.fps)
    meter.add(to_mono(recording, segment.sample_rate))
    return make_cut(seams, chapters, FADE)(plan, meter.levels)


def _describe_seams(plan: SegmentPlan) -> str:
    more = len(plan) - len(SegmentPlan(plan.frames, plan.config))
    text = f", {more} more for seams in pauses" * bool(more)
    return text + f", {len(plan.chapters) + 1} chapters" * bool(plan.chapters)


def _find_video_node() -> tuple[Graph, str] | None:
    """The nearest Hallo3 Talking Video after the running node."""
    if (running := running_node()) is None:
        return None
    graph, own = running
    node = graph.find_consumer(own, VIDEO)
    return None if node is None else (graph, node)


def _describe_guidance(sampled: SamplingSettings, plan: SegmentPlan) -> str:
    if sampled.strengths is None:
        return f"guidance {sampled.guidance_scale:g}"
    starts = [start / plan.config.fps for start in plan.starts]
    evaluations = sampled.count_evaluations(starts, [True] * len(starts))
    times = evaluations / (2 * sampled.steps * len(plan))
    return f"{sampled.strengths.describe()}: {times:.3g} times the work of one guidance scale"


def _estimate(
    settings: Settings, plan: SegmentPlan, size: tuple[int, int], encoding: VideoEncoding
) -> RunEstimate:
    config, steps, device = settings.config, settings.steps, compute_device()
    sampled = settings.sampled
    evaluations = steps * sampled.branches
    key = throughput_key(config.name, device, evaluations, size, encoding, settings.step_cache)
    estimate = estimate_run(
        plan,
        config.segment.shape,
        size,
        encoding.codec,
        ram=base_ram(config.segment) + sum(settings.weights.values()),
        features=config.audio.layers * config.audio.channels * 4,
        keep_pixels=settings.images,
        throughput=read_throughput(jobs_folder(), key),
    )
    speed = read_speed(torch.device(device), speed_key(config, settings.precision))
    if speed is None:
        return estimate
    pixels = config.segment.new_frames * size[0] * size[1]
    counts = Counter(len(each.branches) for each in sampled.guidance())
    time = speed.segment_time(unguided=counts[1], guided=counts[2], three=counts[3], pixels=pixels)
    return estimate.expecting(time)


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
