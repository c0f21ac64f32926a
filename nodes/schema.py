"""Inputs that several nodes share, so that they are called and explained alike."""

from __future__ import annotations

from comfy_api.latest import io

from ..hallo3.media.video import CODECS
from ..hallo3.noise import MAX_SEED
from ..hallo3.sampling.schedule import TRAIN_STEPS
from ..hallo3.settings import MAX_GUIDANCE

ReferenceNetworkType = io.Custom("HALLO3_REFERENCE_NETWORK")
"""A :class:`nodes.comfy.loading.ReferenceSocket`."""
SpeechType = io.Custom("HALLO3_SPEECH")
"""A :class:`nodes.comfy.speech.SpeechSocket`."""
IdentityType = io.Custom("HALLO3_IDENTITY")
"""A :class:`hallo3.identity.Identity`."""
FaceAnalyzerType = io.Custom("HALLO3_FACE_ANALYZER")
"""Anything that satisfies :class:`hallo3.face.analysis.FaceAnalyzer`."""

KEEP = "hallo3_keep"
"""Entry of a LATENT: the first frame of its segment that is new, the one after its last, and how many latent
frames it had then."""


LAST_SEGMENT = 1_000_000


def networks() -> list[io.Input]:
    """The model and its VAE."""
    return [
        io.Model.Input(
            "model",
            tooltip=(
                "From Load Hallo3 Model or Load Hallo3 Built-in; LoRA loaders and caches can sit in between."
            ),
        ),
        io.Vae.Input("vae", tooltip="CogVideoX's 3D VAE, or the VAE of Load Hallo3 Built-in."),
    ]


def who_and_what() -> list[io.Input]:
    """Identity and speech."""
    return [
        IdentityType.Input("identity", tooltip="The person who speaks, from Hallo3 Identity Reference."),
        SpeechType.Input("speech", tooltip="The speech, from Hallo3 Encode Speech."),
    ]


def segment() -> io.Input:
    """Which segment."""
    return io.Int.Input(
        "segment",
        default=0,
        min=0,
        max=LAST_SEGMENT,
        tooltip="Number of the segment, from 0. Hallo3 Encode Speech outputs how many there are.",
    )


def seed(tooltip: str = "The same inputs and seed give the same result.") -> io.Input:
    """The seed of a run."""
    return io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip)


def steps() -> io.Input:
    """Sampling steps."""
    return io.Int.Input(
        "steps",
        default=50,
        min=1,
        max=TRAIN_STEPS,
        tooltip="Sampling steps per segment: 50 for the released model, 1 for the built-in one.",
    )


def steps_and_guidance() -> list[io.Input]:
    """What the original calls by these names."""
    return [
        steps(),
        io.Float.Input(
            "guidance_scale",
            default=3.5,
            min=0.0,
            max=MAX_GUIDANCE,
            step=0.1,
            tooltip=(
                "How strongly the video follows prompt and speech: 3.5 for the released model, 1 "
                "for the built-in one. 1 disables guidance and halves the work."
            ),
        ),
    ]


def motion_drop() -> io.Input:
    """The random mask over motion frames."""
    return io.Float.Input(
        "motion_drop",
        default=0.1,
        min=0.0,
        max=1.0,
        step=0.01,
        advanced=True,
        tooltip="Fraction of the motion frames' pixels hidden from the model, to reduce drift.",
    )


def positive() -> io.Input:
    """The prompt."""
    return io.Conditioning.Input(
        "positive",
        optional=True,
        tooltip=(
            "The prompt, encoded by T5-XXL (Load CLIP, type cogvideox) or the clip of Load Hallo3"
            " Built-in. Default: no prompt."
        ),
    )


def codec() -> io.Input:
    """How the video is encoded."""
    return io.Combo.Input(
        "codec",
        options=list(CODECS),
        default="h264",
        optional=True,
        advanced=True,
        tooltip="h264 plays anywhere; h265 is smaller; prores (.mov) and ffv1 (.mkv, lossless) for editing.",
    )


def video_file() -> list[io.Input]:
    """The finished file."""
    return [
        codec(),
        io.Int.Input(
            "quality",
            default=-1,
            min=-1,
            max=51,
            optional=True,
            advanced=True,
            tooltip="0 is best; -1 is the default: 17 for h264, 20 for h265. Keep -1 for prores and ffv1.",
        ),
    ]


def going_on() -> list[io.Input]:
    """What is to become of segments that are finished."""
    return [
        io.String.Input(
            "redo",
            default="",
            optional=True,
            advanced=True,
            tooltip=(
                "Segments to re-render, counted from 1: 14-17, or 14- for 14 to the end. Others are kept."
            ),
        ),
        io.Int.Input(
            "take",
            default=1,
            min=1,
            max=LAST_SEGMENT,
            optional=True,
            advanced=True,
            tooltip="Take number of the redone segments. Change it for a different result.",
        ),
        io.String.Input(
            "continue_from",
            default="",
            optional=True,
            advanced=True,
            tooltip=(
                "Continue a finished video with this speech: connect the job output of the node that "
                "rendered it."
            ),
        ),
        io.Int.Input(
            "start_again",
            default=0,
            min=0,
            max=LAST_SEGMENT,
            optional=True,
            advanced=True,
            tooltip=(
                "Increase by 1 to render everything again. The earlier job is kept for 7 days, for 30"
                " if unfinished."
            ),
        ),
        io.Boolean.Input(
            "mark",
            default=True,
            optional=True,
            advanced=True,
            tooltip='Add an "AI-generated" note to the file\'s metadata.',
        ),
    ]


def paste_back() -> io.Input:
    """The whole photograph."""
    return io.Boolean.Input(
        "paste_back",
        default=False,
        optional=True,
        tooltip="Output the whole photograph with the animated crop in it; at most 1920 px per side.",
    )


def motion_frames() -> io.Input:
    """The last frames of the previous segment."""
    return io.Image.Input(
        "motion_frames",
        optional=True,
        tooltip="From Hallo3 VAE Decode of the previous segment. Only segment 0 needs none.",
    )


def sampling_sockets() -> list[io.Input]:
    """ComfyUI's own ways to sample, in place of the original's."""
    return [
        io.Guider.Input(
            "guider",
            optional=True,
            tooltip="Has its own model, guidance and text; the ones connected here are then ignored.",
        ),
        io.Sampler.Input(
            "sampler",
            optional=True,
            tooltip=(
                "Default: dpmpp_2m_sde, the original's, for the released model; ddim for the built-in one."
            ),
        ),
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="Default: the original's schedule. If connected, steps is ignored.",
        ),
    ]
