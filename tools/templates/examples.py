"""The example workflows, each a function that fills a graph."""

from __future__ import annotations

from collections.abc import Callable

from . import notes
from .graph import BYPASSED, MUTED, Graph, Node, Slot
from .parts import (
    FIRST,
    GUIDANCE,
    LOWER,
    STEP,
    STEPS,
    begun,
    built_in,
    extrapolate,
    identity_of,
    real_weights,
    save,
    speech_of,
)
from .spec import Spec


def talking_portrait(graph: Graph) -> None:
    """Portrait and speech to a video."""
    loaded, sample = begun(graph, notes.TALKING_PORTRAIT, 380)
    graph.column(FIRST + STEP, LOWER)
    identity = identity_of(graph, loaded, sample["portrait"])
    speech = speech_of(graph, loaded, sample["speech"])
    graph.column(FIRST + 2 * STEP)
    with graph.group("Video"):
        video = extrapolate(graph, loaded, identity, speech)
        graph.column(FIRST + 3 * STEP)
        save(graph, video["video"], "talking_portrait")


def five_stages(graph: Graph) -> None:
    """Two segments, every stage a node."""
    loaded, sample = begun(graph, notes.FIVE_STAGES, 480)
    graph.column(FIRST + STEP, LOWER)
    speech = speech_of(graph, loaded, sample["speech"], "1 Audio encoding")
    identity = identity_of(graph, loaded, sample["portrait"], "2 Identity reference")
    text = real_weights(graph, 1280)

    def sampler(segment: int, **motion: Slot) -> Node:
        return graph.node(
            "Hallo3Sampler", height=570, model=loaded["model"], vae=loaded["vae"], identity=identity,
            speech=speech["speech"], segment=segment, steps=STEPS, guidance_scale=GUIDANCE,
            positive=text["CONDITIONING"], **motion,
        )  # fmt: skip

    def decode(sampled: Node) -> Node:
        return graph.node("Hallo3VAEDecode", samples=sampled["latent"], vae=loaded["vae"], identity=identity)

    graph.column(FIRST + 2 * STEP)
    with graph.group("3 Transformer: segment 0"):
        sampled = sampler(0)
    graph.column(FIRST + 3 * STEP)
    with graph.group("4 VAE decode: segment 0"):
        first = decode(sampled)
    with graph.group("5 Extrapolation: segment 1 continues segment 0"):
        graph.column(FIRST + 3 * STEP, 310)
        sampled = sampler(1, motion_frames=first["motion_frames"])
        graph.column(FIRST + 4 * STEP, 310)
        second = decode(sampled)
    graph.column(FIRST + 5 * STEP)
    with graph.group("Video"):
        images = {"images.image0": first["images"], "images.image1": second["images"]}
        joined = graph.node("BatchImagesNode", **images)
        video = graph.node("CreateVideo", images=joined["IMAGE"], audio=sample["speech"], fps=speech["fps"])
        save(graph, video["VIDEO"], "five_stages")


def with_ksampler(graph: Graph) -> None:
    """One segment through ComfyUI's own sampler."""
    loaded, sample = begun(graph, notes.WITH_KSAMPLER, 450)
    graph.column(FIRST + STEP, LOWER)
    identity = identity_of(graph, loaded, sample["portrait"])
    speech = speech_of(graph, loaded, sample["speech"])
    graph.column(FIRST + 2 * STEP)
    with graph.group("Segment 0"):
        segment = graph.node(
            "Hallo3SegmentConditioning", model=loaded["model"], vae=loaded["vae"], identity=identity,
            speech=speech["speech"],
        )  # fmt: skip
        graph.column(FIRST + 3 * STEP)
        sampled = graph.node(
            "KSampler", height=460, model=loaded["model"], positive=segment["positive"],
            negative=segment["negative"], latent_image=segment["latent"], steps=STEPS, cfg=GUIDANCE,
            sampler_name="ddim", scheduler="simple",
        )  # fmt: skip
    graph.column(FIRST + 4 * STEP)
    with graph.group("Video"):
        decoded = graph.node(
            "Hallo3VAEDecode", samples=sampled["LATENT"], vae=loaded["vae"], identity=identity
        )
        video = graph.node("CreateVideo", images=decoded["images"], audio=sample["speech"], fps=speech["fps"])
        save(graph, video["VIDEO"], "with_ksampler")


def long_speech(graph: Graph) -> None:
    """Everything that helps with minutes of speech."""
    loaded, sample = begun(graph, notes.LONG_SPEECH, 540)
    text = real_weights(graph, 1500)
    graph.column(FIRST + 2 * STEP)
    with graph.group("Sampling"):
        cached = graph.node("EasyCache", mode=BYPASSED, model=loaded["model"])
        sampler = graph.node("Hallo3OriginalSampler", sampler_name="ddim")
        sigmas = graph.node("Hallo3OriginalSchedule", model=cached["MODEL"], steps=STEPS)
        nothing = graph.node("ConditioningZeroOut", mode=MUTED, conditioning=text["CONDITIONING"])
        guider = graph.node(
            "CFGGuider", mode=MUTED, model=cached["MODEL"], positive=text["CONDITIONING"],
            negative=nothing["CONDITIONING"], cfg=3.5,
        )  # fmt: skip
    graph.column(FIRST + STEP, LOWER)
    identity = identity_of(graph, loaded, sample["portrait"])
    with graph.group("Speech"):
        piece = graph.node("TrimAudioDuration", mode=BYPASSED, audio=sample["speech"], duration=5.0)
        plan = graph.node(
            "Hallo3Plan", audio=piece["AUDIO"], model="built-in", steps=STEPS, guidance_scale=GUIDANCE
        )
        speech = graph.node("Hallo3EncodeSpeech", audio=plan["audio"], audio_encoder=loaded["audio_encoder"])
    graph.column(FIRST + 3 * STEP)
    with graph.group("Video"):
        video = extrapolate(
            graph, loaded, identity, speech, model=cached["MODEL"], guider=guider["GUIDER"],
            sampler=sampler["sampler"], sigmas=sigmas["sigmas"],
        )  # fmt: skip
        graph.column(FIRST + 4 * STEP)
        save(graph, video["video"], "long_speech")
        graph.node("PreviewImage", title="Drift", width=420, height=300, images=video["drift"])


def video_sound_and_upscale(graph: Graph) -> None:
    """A video's first frame and sound in, larger frames out."""
    graph.column(0)
    graph.note(notes.VIDEO_SOUND, height=420)
    graph.column(FIRST)
    loaded = built_in(graph)
    with graph.group("Video in"):
        sample = graph.node("Hallo3Sample")
        stand_in = graph.node(
            "CreateVideo", title="Create Video (instead of yours)", images=sample["portrait"],
            audio=sample["speech"], fps=25.0,
        )  # fmt: skip
        graph.node("LoadVideo", mode=MUTED, file="", height=140)
    graph.column(FIRST + STEP, 2 * LOWER)
    with graph.group("Portrait and speech"):
        parts = graph.node("GetVideoComponents", video=stand_in["VIDEO"])
        frame = graph.node("ImageFromBatch", title="First frame", image=parts["images"])
    graph.column(FIRST + 2 * STEP, LOWER)
    identity = identity_of(graph, loaded, frame["IMAGE"])
    speech = speech_of(graph, loaded, parts["audio"])
    graph.column(FIRST + 3 * STEP)
    with graph.group("Talking portrait"):
        made = extrapolate(graph, loaded, identity, speech)
    graph.column(FIRST + 4 * STEP)
    with graph.group("Upscaled, with the same sound"):
        larger = graph.node("ImageScaleBy", image=made["images"], upscale_method="lanczos", scale_by=2.0)
        video = graph.node("CreateVideo", images=larger["IMAGE"], audio=parts["audio"], fps=speech["fps"])
        save(graph, video["VIDEO"], "upscaled")


EXAMPLES: dict[str, Callable[[Graph], None]] = {
    "Hallo3 talking portrait": talking_portrait,
    "Hallo3 five stages": five_stages,
    "Hallo3 with KSampler": with_ksampler,
    "Hallo3 long speech": long_speech,
    "Hallo3 video sound and upscale": video_sound_and_upscale,
}


def example(name: str, specs: dict[str, Spec]) -> Graph:
    """One of them."""
    graph = Graph(name, specs)
    EXAMPLES[name](graph)
    return graph
