"""Socket types, and the inputs that several nodes share."""

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
"""A :class:`hallo3.face.analyzer.FaceAnalyzer`."""

KEEP = "hallo3_keep"
"""Entry of a LATENT: its segment's first new frame, the end of the new ones, its number of latent frames."""
MAX_COUNT = 1_000_000


def render_inputs(*, single_segment: bool, sampled: bool = True) -> list[io.Input]:
    """Inputs of Extrapolate; for a single segment, of Sampler and, not ``sampled``, Segment Conditioning."""
    inputs: list[io.Input] = [
        io.Model.Input(
            "model",
            tooltip=(
                "From Load Hallo3 Model or Load Hallo3 Built-in; LoRA loaders and caches can sit in between."
            ),
        ),
        vae_input(),
        IdentityType.Input("identity", tooltip="The person who speaks, from Hallo3 Identity Reference."),
        SpeechType.Input("speech", tooltip="The speech, from Hallo3 Encode Speech."),
    ]
    if single_segment:
        inputs.append(
            _count(
                "segment",
                0,
                "Number of the segment, from 0. Hallo3 Encode Speech outputs how many there are.",
            )
        )
    seed = "The same inputs and seed give the same result."
    if not sampled:
        seed = "Selects the hidden pixels of the motion frames; the sampler has its own seed."
    inputs.append(
        io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=seed)
    )
    if sampled:
        inputs += steps_and_guidance()
    inputs += [
        io.Float.Input(
            "motion_drop",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="Fraction of the motion frames' pixels hidden from the model, to reduce drift.",
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip=(
                "The prompt, encoded by T5-XXL (Load CLIP, type cogvideox) or the clip of Load Hallo3 "
                "Built-in. Default: no prompt."
            ),
        ),
    ]
    if single_segment:
        inputs.append(
            io.Image.Input(
                "motion_frames",
                optional=True,
                tooltip="From Hallo3 VAE Decode of the previous segment. Only segment 0 needs none.",
            )
        )
    return inputs + (_sampling_sockets() if sampled else [])


def vae_input() -> io.Input:
    return io.Vae.Input("vae", tooltip="CogVideoX's 3D VAE, or the VAE of Load Hallo3 Built-in.")


def steps_input() -> io.Input:
    return io.Int.Input(
        "steps",
        default=50,
        min=1,
        max=TRAIN_STEPS,
        tooltip="Sampling steps per segment: 50 for the released model, 1 for the built-in one.",
    )


def steps_and_guidance() -> list[io.Input]:
    return [
        steps_input(),
        io.Float.Input(
            "guidance_scale",
            default=3.5,
            min=0.0,
            max=MAX_GUIDANCE,
            step=0.1,
            tooltip=(
                "How strongly the video follows prompt and speech: 3.5 for the released model, 1 for the "
                "built-in one. 1 disables guidance and halves the work."
            ),
        ),
    ]


def _sampling_sockets() -> list[io.Input]:
    """ComfyUI's own sampling in place of the original's."""
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


def codec_input() -> io.Input:
    return io.Combo.Input(
        "codec",
        options=list(CODECS),
        default="h264",
        optional=True,
        advanced=True,
        tooltip="h264 plays anywhere; h265 is smaller; prores (.mov) and ffv1 (.mkv, lossless) for editing.",
    )


def job_inputs() -> list[io.Input]:
    """The file's encoding, and what happens to segments that are already rendered."""
    return [
        codec_input(),
        io.Int.Input(
            "quality",
            default=-1,
            min=-1,
            max=51,
            optional=True,
            advanced=True,
            tooltip="0 is best; -1 is the default: 17 for h264, 20 for h265. Keep -1 for prores and ffv1.",
        ),
        _text(
            "redo", "Segments to re-render, counted from 1: 14-17, or 14- for 14 to the end. Others are kept."
        ),
        _count(
            "take", 1, "Take number of the redone segments. Change it for a different result.", advanced=True
        ),
        _text(
            "continue_from",
            "Continue a finished video with this speech: connect the job output of the node that rendered "
            "it.",
        ),
        _count(
            "start_again",
            0,
            (
                "Increase by 1 to render everything again. The earlier job is kept for 7 days, for 30 if "
                "unfinished."
            ),
            advanced=True,
        ),
        io.Boolean.Input(
            "mark",
            default=True,
            optional=True,
            advanced=True,
            tooltip='Add an "AI-generated" note to the file\'s metadata.',
        ),
        paste_back_input(),
    ]


def paste_back_input() -> io.Input:
    return io.Boolean.Input(
        "paste_back",
        default=False,
        optional=True,
        tooltip="Output the whole photograph with the animated crop in it; at most 1920 px per side.",
    )


def _text(name: str, tooltip: str) -> io.Input:
    return io.String.Input(name, default="", optional=True, advanced=True, tooltip=tooltip)


def _count(name: str, lowest: int, tooltip: str, advanced: bool | None = None) -> io.Input:
    return io.Int.Input(
        name,
        default=lowest,
        min=lowest,
        max=MAX_COUNT,
        optional=bool(advanced),
        advanced=advanced,
        tooltip=tooltip,
    )
