"""Every option of every command: a field of a dataclass, in the order of the help. Its annotation is the
option's type; each base class is a group of options with the class's ``title`` and ``about``."""

from __future__ import annotations

from argparse import Action, ArgumentParser, ArgumentTypeError
from dataclasses import MISSING, dataclass, fields
from inspect import get_annotations
from pathlib import Path
from typing import Any, NamedTuple

from ..attention_backend import BACKENDS
from ..built_in import FOLDER, NAME
from ..config import COMPONENTS
from ..media.framing import FRAMINGS
from ..media.loudness import AS_RECORDED, LEVELS, SILENCES
from ..media.video import CODECS
from ..model.kernels.select import NAMES as KERNELS
from ..sampling.samplers import SAMPLERS
from ..settings import APPROXIMATIONS, POSTERIORS, UNTESTED
from ..speakers import SPEAKERS_UNTESTED
from ..speech.features import EXACT_MINUTES, HEARINGS, WINDOW_MINUTES
from .director_options import DirectorOptions
from .option_fields import argument, choice, component_choice, option, switch

AUTO, CHANNELS, SILENCE = "auto", "channels", "silence"
RATES = (24, 25, 30, 50, 60)
TOKEN_VARIABLE = "HALLO3_TOKEN"
IN_MODEL_FOLDER = Path()  # value of ``--vocals`` without a file
DTYPES = (AUTO, "fp32", "bf16", "fp16", "fp8", "float32", "bfloat16", "float16")
TYPES: dict[str, Any] = {"int": int, "float": float, "Path": Path}


def dash(words: str) -> str:
    """A choice of several words as one word of a command line."""
    return words.replace(" ", "-")


def parse_model_folder(text: str) -> Path:
    return FOLDER if text == NAME else Path(text)


def parse_vram(text: str) -> float | str:
    try:
        return text if text == AUTO else float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a number of GB nor {AUTO}") from None


def parse_speakers(text: str) -> Path | str:
    return text if text == CHANNELS else Path(text)


class Voice(NamedTuple):
    """A recording, or None for silence, of the face with a number from 1; 0 if none is given."""

    number: int
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> Voice:
        number, equals, name = text.partition("=")
        if not (equals and number.isdecimal() and len(number) < 4 and name):
            return cls(0, Path(text))
        return cls(int(number), None if name == SILENCE else Path(name))


class SpeechAction(Action):
    """Collects the recordings of a command line."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        del parser, option_string
        namespace.voices = voices = (*getattr(namespace, "voices", ()), Voice.parse(values))
        namespace.speech = next((voice.path for voice in voices if voice.path is not None), None)


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    traceback: bool = switch("show where an unexpected error arose")


@dataclass(frozen=True, kw_only=True)
class PortraitOptions:
    title = "portrait"
    about = (
        "Faces in photographs are found by antelopev2's scrfd_10g_bnkps.onnx and glintr100.onnx "
        "(--faces DIR)."
    )
    face: int = option("N", "number of the face to use, from the left (default: the largest)", default=0)
    whole_picture: bool = switch(
        "continue if no face is found, as the original does, or with a photograph and the built-in model"
    )
    face_box: str | None = option(
        "L,T,R,B",
        "position of the face in pixels: left, top, right, bottom; of several speakers "
        "one after the other, separated by semicolons",
    )
    framing: str = choice(
        FRAMINGS,
        "face: crop to the face; original: the middle; auto: face, unless the portrait is square or 3:2 "
        "(default: auto)",
        default=AUTO,
    )
    paste_back: bool = switch("the video shows the whole photograph, animated inside the crop")
    preview: Path | None = option("PNG", "draw what is used of the portrait, before rendering")
    save_identity: Path | None = option(
        "FILE", "save the extracted identity for --identity, which then needs no reference network"
    )


@dataclass(frozen=True, kw_only=True)
class SpeechOptions:
    title = "speech"
    about = (
        "What the model gets; the video always has the recording's own sound. Several speakers: "
        f"{SPEAKERS_UNTESTED}."
    )
    speakers: Path | str | None = option(
        "FILE",
        "who speaks when in one recording of several people: lines such as [0:00-0:04.5] 1, an RTTM or SRT; "
        f"{CHANNELS}: the left channel is the first face, the right one the second",
        type=parse_speakers,
    )
    track: int | None = option(
        "N", "sound track of the file, from 1, also for the video (default: the first)"
    )
    level: str = choice(
        map(dash, LEVELS),
        "evened: raise quiet passages, so that a quieter second speaker moves the mouth too "
        "(default: as-recorded)",
        default=dash(AS_RECORDED),
    )
    silence: str = choice(
        map(dash, SILENCES),
        "muted: treat pauses as silence, so that room noise does not move the mouth (default: as-recorded)",
        default=dash(AS_RECORDED),
    )
    hearing: str = choice(
        HEARINGS,
        f"windows: an approximation for very long recordings, {WINDOW_MINUTES} minutes per window; auto: "
        f"exact up to {EXACT_MINUTES} minutes (default: auto)",
        default=AUTO,
    )
    vocals: Path | None = option(
        "FILE",
        "remove music before the speech is encoded, as the original does, with Kim_Vocal_2.onnx: this FILE, "
        "or the one in the model folder (default: off)",
        nargs="?",
        const=IN_MODEL_FOLDER,
    )
    speech_chart: Path | None = option("PNG", "draw loudness, silence and segments, before rendering")


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    title = "jobs"
    about = "Finished segments are kept beside the video; the same command resumes where it was stopped."
    jobs: bool = switch("list kept jobs and render nothing")
    jobs_folder: Path | None = option("DIR", "where to keep jobs (default: hallo3_jobs beside the video)")
    fresh: bool = switch("start over; existing work is set aside")
    redo: str = option(
        "A-B",
        "re-render segments A to B, counted from 1 (A-: to the end), or those in a stretch of time, such as "
        "12.5s-20s or 0:12-0:20, or in cues of the --script, such as cue 3 or cue 3-5",
        default="",
    )
    take: int = option("N", "with --redo: take number of the new rendering (default: 1)", default=1)
    continue_from: str | None = option("VIDEO", "continue this finished video, or job, with this speech")
    share: str | None = option(
        "PLACE",
        "share the job with other machines: finished segments are kept there, and one machine at a time "
        "renders the rest; a folder that all machines mount, or s3://, gs://, az://",
    )
    upload: str | None = option(
        "URL", "upload the finished video there; the job is shared in hallo3_jobs beside it, or in --share"
    )


@dataclass(frozen=True, kw_only=True)
class VideoFileOptions:
    title = "video file"
    codec: str = choice(CODECS, "video codec (default: h264)", default="h264")
    quality: int | None = option("N", "0 is best (default: 17 for h264, 20 for h265)")
    fps: int | None = option(
        "N",
        "frames per second of the video: 24, 30, 50 or 60 by repeating or dropping frames (default: 25, the "
        "model's own)",
        choices=RATES,
    )
    pixels: str | None = option("FORMAT", "FFmpeg pixel format (default: yuv420p, or the codec's own)")
    chart: Path | None = option(
        "PNG", "draw how sharpness, colours, seams and face similarity change over time"
    )
    no_mark: bool = switch('do not add an "AI-generated" note to the file')
    sign: Path | None = option(
        "PEM",
        "sign the video with this certificate and its private key (Content Credentials): AI-generated, with "
        "hashes of portrait and speech; `hallo3 verify` reads it",
    )


@dataclass(frozen=True, kw_only=True)
class ApproximationOptions:
    title = "approximations"
    about = f"Faster, but a different result; {UNTESTED}. " + " ".join(
        f"{row.name}: {row.about}." for row in APPROXIMATIONS.values()
    )
    approximate: list[str] = option(
        "NAME[,NAME]", "approximations by name; can be repeated (default: none)", default=[], action="append"
    )


@dataclass(frozen=True, kw_only=True)
class ExpertOptions:
    title = "expert"
    device: str = option(
        "NAME",
        "where to compute: cpu, cuda, cuda:N, or one that is untried: mps, xpu (default: auto, a CUDA GPU if "
        "there is one)",
        default=AUTO,
    )
    dtype: str = option(
        "TYPE",
        "data type: fp32, bf16, fp16 (untried), or fp8 weights for half the memory (default: bf16 on a GPU, "
        "fp16 on one without bf16, fp32 on a CPU and for the built-in model)",
        default=AUTO,
        choices=DTYPES,
    )
    posterior: str = choice(
        POSTERIORS, "sample: encode pictures with noise, as the original does", default="mean"
    )
    low_memory: bool = switch(
        "by hand, instead of --vram: one guidance branch at a time, conditions projected when needed, "
        "--offload blocks"
    )
    offload: str | None = choice(
        ("none", "blocks", "disk"),
        "by hand, instead of --vram: keep the transformer's blocks in RAM (blocks) or on disk and send each "
        "to the GPU when it is needed; exact (default: none; with --low-memory: blocks)",
    )
    vram: float | str | None = option(
        "GB",
        "limit GPU memory to this many GB (10^9 bytes); exact: weights that do not fit are streamed. With "
        "--plan no GPU is needed (default: auto, the free memory of a CUDA GPU)",
        type=parse_vram,
    )
    attention: str = option(
        "NAME",
        f"{', '.join(backend.title for backend in BACKENDS.values())}; `hallo3 doctor` lists those that run "
        "here (default: auto; on CUDA the fastest of torch's)",
        default=AUTO,
    )
    kernels: str = choice(
        KERNELS,
        "what computes between matrix products: torch's operations (plain), or one GPU kernel for several of "
        "them (fused; exact). auto: fused on GPUs with Triton after a self-test",
        default=AUTO,
    )


@dataclass(frozen=True, kw_only=True)
class ComponentOptions:
    title = "files outside the model folder"
    about = "Each is a weights file, or a folder with one component's files."
    transformer: Path | None = option("PATH", "")
    reference: Path | None = option("PATH", "")
    vae: Path | None = option("PATH", "")
    text_encoder: Path | None = option("PATH", "")
    speech_encoder: Path | None = option("PATH", "")
    tokenizer: Path | None = option("PATH", "")
    faces: Path | None = option("PATH", "")
    faces_unverified: bool = switch("accept face networks that are not the published files")

    @property
    def files(self) -> dict[str, Path]:
        paths = {name: getattr(self, name) for name in (*COMPONENTS, "tokenizer", "faces")}
        return {name: path for name, path in paths.items() if path is not None}


@dataclass(frozen=True, kw_only=True)
class AnimateOptions(
    PortraitOptions,
    SpeechOptions,
    DirectorOptions,
    ResumeOptions,
    VideoFileOptions,
    ApproximationOptions,
    ExpertOptions,
    ComponentOptions,
    CommonOptions,
):
    portrait: Path | None = option("P", "picture of one person, at least 64 px per side")
    identity: Path | None = option("FILE", "identity from --save-identity, instead of a portrait")
    speech: Path | None = option(
        "S",
        "audio or video file with the speech. For several people repeat it: in the order of their faces from "
        f"the left, or with the numbers of faces, such as 2=b.wav; N={SILENCE} for a face that is silent",
        action=SpeechAction,
    )
    voices: tuple[Voice, ...] = ()
    """All recordings of a command line with their numbers; ``speech`` is the first."""
    prompt: str = option("T", "what the picture shows (default: no text)", default="")
    model: Path = option(
        "DIR",
        f"model folder, or {NAME}: small, for drawn faces (default: {NAME})",
        default=FOLDER,
        type=parse_model_folder,
    )
    output: Path | None = option("OUT.mp4", "video to write: .mp4, .mov or .mkv", short="-o")
    steps: int | None = option("N", "sampling steps per segment (default: the model's)")
    guidance: float | None = option("G", "guidance scale; 1 disables guidance (default: the model's)")
    text_strength: str | None = option(
        "S",
        "guidance of the prompt alone (default: --guidance): a number, or a curve over the video, such as "
        "0:1, 30:1.5 in seconds, or over the steps (how-to/strengths.md)",
    )
    voice_strength: str | None = option(
        "S", "guidance of the speech alone, likewise; 0: the mouth does not follow it"
    )
    seed: int = option("N", "0 to 2^64 - 1 (default: 0)", default=0)
    sampler: str | None = option("NAME", f"{', '.join(SAMPLERS)} (default: the model's)")
    enlarge: int = option("N", "enlarge the frames N times, 1 to 16 (default: 1)", default=1)
    trial: bool = switch(
        "show within minutes whether everything loads and runs: 9 frames on a small canvas, 2 steps; no "
        "picture to judge by"
    )
    plan: bool = switch("print an estimate of the run and render nothing")
    json: bool = switch("with --plan: as one JSON object")


@dataclass(frozen=True, kw_only=True)
class BatchOptions(AnimateOptions):
    table: Path = argument(
        "TABLE",
        "CSV, JSON Lines or YAML with a row per video; columns are options of animate. Options of the "
        "command line are for all rows",
    )
    output: Path | None = option(
        "DIR", "folder for videos whose row has no output (default: beside the table)", short="-o"
    )
    check: bool = switch("list everything that is wrong in the table and render nothing")
    workers: int | None = option(
        "N", "render N rows at once, each in a process (default: one per GPU; on a CPU one, here)"
    )
    ray: str | None = option(
        "ADDRESS",
        "workers are actors of Ray: of one that is started here, or that runs at ADDRESS (auto: on this "
        "computer); one per GPU",
        nargs="?",
        const="",
    )
    shard: str = option(
        "I/N",
        "render part I of N of the table; each part on a machine of its own (default: 1/1)",
        default="1/1",
    )
    json: bool = switch("print events as JSON, one per line")


@dataclass(frozen=True, kw_only=True)
class DemoOptions(CommonOptions):
    output: Path = option(
        "OUT.mp4", "video to write (default: hallo3_demo.mp4)", default=Path("hallo3_demo.mp4"), short="-o"
    )


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(CommonOptions):
    source: Path = argument("SRC", "a checkpoint, or the folder of the original's files")
    target: Path = argument("DST", "folder to write to; ComfyUI's models folder is recognized")
    dtype: str = choice(
        ("fp32", "bf16", "fp16", "fp8"), "data type of the written weights (default: bf16)", default="bf16"
    )
    part: list[str] = component_choice(
        "convert this component only; can be repeated (default: all that are there)"
    )
    config: Path | None = option("JSON", "sizes of a checkpoint that is not the released model")


@dataclass(frozen=True, kw_only=True)
class JobsOptions(CommonOptions):
    folder: Path = argument("DIR", "folder of the videos (default: here)", nargs="?", default=Path())
    clear: list[str] = option("JOB", "delete these jobs, by name; all: every job", default=[], nargs="+")


@dataclass(frozen=True, kw_only=True)
class InspectOptions(CommonOptions):
    files: list[Path] = argument("FILE", "a file, or a folder with the files of one component", nargs="+")
    json: bool = switch("as JSON")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(CommonOptions):
    file: Path = argument("FILE", "a video")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(CommonOptions):
    folder: Path | None = argument(
        "DIR", "a model folder, or ComfyUI's models folder", type=parse_model_folder, nargs="?"
    )
    measure: bool = switch(
        "measure how fast this device computes, for a minute; --plan then says how long a video takes; "
        "needs no DIR"
    )
    json: bool = switch("as one JSON object")


@dataclass(frozen=True, kw_only=True)
class TinyOptions(CommonOptions):
    folder: Path = argument("DIR", "new or empty folder")
    seed: int = option("N", "0 to 2^64 - 1 (default: 0)", default=0)
    size: str = choice(("tiny", "nano"), "tiny: 64 x 96, 49 frames; nano: 32 x 32, 17 frames", default="tiny")


def add_options(parser: ArgumentParser, options: type) -> None:
    done = set[str]()
    for group in options.__mro__[:-1]:
        title, own = vars(group).get("title"), get_annotations(group).keys() - done
        done |= own
        add = (parser.add_argument_group(title, vars(group).get("about")) if title else parser).add_argument
        for each in fields(options):
            if each.name not in own or not each.metadata:
                continue
            settings = dict(each.metadata["settings"])
            kind = TYPES.get(str(each.type).removeprefix("list[").removesuffix("]").removesuffix(" | None"))
            if kind is not None and "action" not in settings:
                settings.setdefault("type", kind)
            if "flags" not in each.metadata:
                add(each.name, **settings)
                continue
            default = each.default_factory() if each.default_factory is not MISSING else each.default
            name = f"--{each.name.replace('_', '-')}"
            add(*each.metadata["flags"], name, dest=each.name, default=default, **settings)
