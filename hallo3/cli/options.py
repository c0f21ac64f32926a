"""Every option of every command, declared once as a field of a dataclass."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..attention import BACKENDS
from ..built_in import FOLDER, NAME
from ..config import COMPONENTS
from ..media.framing import FRAMINGS
from ..media.loudness import AS_RECORDED, LEVELS, SILENCES
from ..media.video import CODECS
from ..model.kernels.select import NAMES as KERNELS
from ..sampling.samplers import SAMPLERS
from ..settings import APPROXIMATIONS, UNTESTED
from ..speech.features import EXACT_MINUTES, HEARINGS, WINDOW_MINUTES
from .parser import argument, option, switch

AUTO = "auto"
IN_MODEL_FOLDER = Path()
"""Value of ``--vocals`` without a file."""
DEVICES = (AUTO, "cpu", "cuda", "mps")
DTYPES = (AUTO, "fp32", "bf16", "fp16", "fp8", "float32", "bfloat16", "float16")
CONVERT_DTYPES = ("fp32", "bf16", "fp16", "fp8")
FILES = "files outside the model folder"
GROUPS = {
    "portrait": "Faces in photographs are found by antelopev2's scrfd_10g_bnkps.onnx and glintr100.onnx "
    "(--faces DIR).",
    "speech": "What the model gets; the video always has the recording's own sound.",
    "jobs": "Finished segments are kept beside the video; the same command resumes where it was stopped.",
    "video file": "",
    "approximations": f"Faster, but a different result; {UNTESTED}. "
    + " ".join(f"{row.name}: {row.about}." for row in APPROXIMATIONS.values()),
    "expert": "",
    FILES: "Each is a weights file, or a folder with one component's files.",
}
"""Titles and descriptions of option groups, in the order of the help."""
TRACEBACK = switch("--traceback", "show where an unexpected error arose")


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


def component_path(name: str) -> Any:
    return option(f"--{name.replace('_', '-')}", "PATH", "", group=FILES)


@dataclass(frozen=True, kw_only=True)
class AnimateOptions:
    portrait: Path | None = option("--portrait", "P", "picture of one person, at least 64 px per side")
    identity: Path | None = option(
        "--identity",
        "FILE",
        "identity from --save-identity, instead of a portrait",
    )
    speech: Path | None = option("--speech", "S", "audio or video file with the speech")
    prompt: str = option("--prompt", "T", "what the picture shows (default: no text)", default="")
    model: Path = option(
        "--model",
        "DIR",
        f"model folder, or {NAME}: small, for drawn faces (default: {NAME})",
        default=FOLDER,
        type=parse_model_folder,
    )
    output: Path | None = option("-o", "--output", "OUT.mp4", "video to write: .mp4, .mov or .mkv")
    steps: int | None = option("--steps", "N", "sampling steps per segment (default: the model's)")
    guidance: float | None = option(
        "--guidance",
        "G",
        "guidance scale; 1 disables guidance (default: the model's)",
    )
    seed: int = option("--seed", "N", "0 to 2^64 - 1 (default: 0)", default=0)
    sampler: str | None = option("--sampler", "NAME", f"{', '.join(SAMPLERS)} (default: the model's)")
    enlarge: int = option("--enlarge", "N", "enlarge the frames N times, 1 to 16 (default: 1)", default=1)
    plan: bool = switch("--plan", "print an estimate of the run and render nothing")
    json: bool = switch("--json", "with --plan: as one JSON object")

    face: int = option(
        "--face",
        "N",
        "number of the face to use, from the left (default: the largest)",
        default=0,
        group="portrait",
    )
    whole_picture: bool = switch(
        "--whole-picture",
        "continue if no face is found, as the original does",
        "portrait",
    )
    face_box: str | None = option(
        "--face-box",
        "L,T,R,B",
        "position of the face in pixels: left, top, right, bottom",
        group="portrait",
    )
    framing: str = option(
        "--framing",
        "",
        "face: crop to the face; original: the middle; auto: face, unless the portrait is square or 3:2 "
        "(default: auto)",
        default=AUTO,
        choices=FRAMINGS,
        group="portrait",
    )
    paste_back: bool = switch(
        "--paste-back",
        "the video shows the whole photograph, animated inside the crop",
        "portrait",
    )
    preview: Path | None = option(
        "--preview",
        "PNG",
        "draw what is used of the portrait, before rendering",
        group="portrait",
    )
    save_identity: Path | None = option(
        "--save-identity",
        "FILE",
        "save the extracted identity for --identity, which then needs no reference network",
        group="portrait",
    )

    level: str = option(
        "--level",
        "",
        "evened: raise quiet passages, so that a quieter second speaker is heard (default: as-recorded)",
        default=dash(AS_RECORDED),
        choices=tuple(map(dash, LEVELS)),
        group="speech",
    )
    silence: str = option(
        "--silence",
        "",
        "muted: treat pauses as silence, so that room noise does not move the mouth (default: as-recorded)",
        default=dash(AS_RECORDED),
        choices=tuple(map(dash, SILENCES)),
        group="speech",
    )
    hearing: str = option(
        "--hearing",
        "",
        f"windows: an approximation for very long recordings, {WINDOW_MINUTES} minutes per window; auto: "
        f"exact up to {EXACT_MINUTES} minutes (default: auto)",
        default=AUTO,
        choices=HEARINGS,
        group="speech",
    )
    vocals: Path | None = option(
        "--vocals",
        "FILE",
        "remove music before the speech is encoded, as the original does, with Kim_Vocal_2.onnx: this FILE, "
        "or the one in the model folder (default: off)",
        nargs="?",
        const=IN_MODEL_FOLDER,
        group="speech",
    )
    speech_chart: Path | None = option(
        "--speech-chart",
        "PNG",
        "draw loudness, silence and segments, before rendering",
        group="speech",
    )

    jobs: bool = switch("--jobs", "list kept jobs and render nothing", "jobs")
    jobs_folder: Path | None = option(
        "--jobs-folder",
        "DIR",
        "where to keep jobs (default: hallo3_jobs beside the video)",
        group="jobs",
    )
    fresh: bool = switch("--fresh", "start over; existing work is set aside", "jobs")
    redo: str = option(
        "--redo",
        "A-B",
        "re-render segments A to B, counted from 1 (A-: to the end)",
        default="",
        group="jobs",
    )
    take: int = option(
        "--take",
        "N",
        "with --redo: take number of the new rendering (default: 1)",
        default=1,
        group="jobs",
    )
    continue_from: str | None = option(
        "--continue-from",
        "VIDEO",
        "continue this finished video, or job, with this speech",
        group="jobs",
    )

    codec: str = option(
        "--codec",
        "",
        "video codec (default: h264)",
        default="h264",
        choices=tuple(CODECS),
        group="video file",
    )
    quality: int | None = option(
        "--quality",
        "N",
        "0 is best (default: 17 for h264, 20 for h265)",
        group="video file",
    )
    pixels: str | None = option(
        "--pixels",
        "FORMAT",
        "FFmpeg pixel format (default: yuv420p, or the codec's own)",
        group="video file",
    )
    chart: Path | None = option(
        "--chart",
        "PNG",
        "draw how sharpness, colours, seams and face similarity change over time",
        group="video file",
    )
    no_mark: bool = switch("--no-mark", 'do not add an "AI-generated" note to the file', "video file")

    approximate: list[str] = option(
        "--approximate",
        "NAME[,NAME]",
        "approximations by name; can be repeated (default: none)",
        default=[],
        action="append",
        group="approximations",
    )

    device: str = option(
        "--device",
        "",
        "where to compute (default: a GPU if there is one)",
        default=AUTO,
        choices=DEVICES,
        group="expert",
    )
    dtype: str = option(
        "--dtype",
        "TYPE",
        "data type: fp32, bf16, fp16, or fp8 weights for half the memory (default: bf16 on a GPU, else fp32)",
        default=AUTO,
        choices=DTYPES,
        group="expert",
    )
    posterior: str = option(
        "--posterior",
        "",
        "sample: encode pictures with noise, as the original does",
        default="mean",
        choices=("mean", "sample"),
        group="expert",
    )
    low_memory: bool = switch(
        "--low-memory",
        "by hand, instead of --vram: one guidance branch at a time, conditions projected when needed, "
        "--offload blocks",
        "expert",
    )
    offload: str | None = option(
        "--offload",
        "",
        "by hand, instead of --vram: keep the transformer's blocks in RAM (blocks) or on disk and send each "
        "to the GPU when it is needed; exact (default: none; with --low-memory: blocks)",
        choices=("none", "blocks", "disk"),
        group="expert",
    )
    vram: float | str | None = option(
        "--vram",
        "GB",
        "limit GPU memory to this many GB (10^9 bytes); exact: weights that do not fit are streamed. With "
        "--plan no GPU is needed (default: auto, the free memory of a CUDA GPU)",
        type=parse_vram,
        group="expert",
    )
    attention: str = option(
        "--attention",
        "NAME",
        f"{', '.join(backend.title for backend in BACKENDS.values())}; `hallo3 doctor` lists those that run "
        "here (default: auto, torch's own choice)",
        default=AUTO,
        group="expert",
    )
    kernels: str = option(
        "--kernels",
        "",
        "what computes between matrix products: torch's operations (plain), or one GPU kernel for several "
        "of them (fused; exact). auto: fused on GPUs with Triton after a self-test",
        default=AUTO,
        choices=KERNELS,
        group="expert",
    )

    transformer: Path | None = component_path("transformer")
    reference: Path | None = component_path("reference")
    vae: Path | None = component_path("vae")
    text_encoder: Path | None = component_path("text_encoder")
    speech_encoder: Path | None = component_path("speech_encoder")
    tokenizer: Path | None = component_path("tokenizer")
    faces: Path | None = component_path("faces")
    faces_unverified: bool = switch(
        "--faces-unverified", "accept face networks that are not the published files", FILES
    )
    traceback: bool = TRACEBACK

    @property
    def files(self) -> dict[str, Path]:
        """Files outside the model folder, by component."""
        paths = {name: getattr(self, name) for name in (*COMPONENTS, "tokenizer", "faces")}
        return {name: path for name, path in paths.items() if path is not None}


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    source: Path = argument("SRC", "a checkpoint, or the folder of the original's files")
    target: Path = argument("DST", "folder to write to; ComfyUI's models folder is recognized")
    dtype: str = option(
        "--dtype",
        "",
        "data type of the written weights (default: bf16)",
        default="bf16",
        choices=CONVERT_DTYPES,
    )
    part: list[str] = option(
        "--part",
        "",
        "convert this component only; can be repeated (default: all that are there)",
        default=[],
        action="append",
        choices=COMPONENTS,
    )
    config: Path | None = option("--config", "JSON", "sizes of a checkpoint that is not the released model")
    traceback: bool = TRACEBACK


@dataclass(frozen=True, kw_only=True)
class JobsOptions:
    folder: Path = argument("DIR", "folder of the videos (default: here)", nargs="?", default=Path())
    clear: list[str] = option(
        "--clear",
        "JOB",
        "delete these jobs, by name; all: every job",
        default=[],
        nargs="+",
    )
    traceback: bool = TRACEBACK


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    files: list[Path] = argument("FILE", "a file, or a folder with the files of one component", nargs="+")
    json: bool = switch("--json", "as JSON")
    traceback: bool = TRACEBACK


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    folder: Path = argument("DIR", "a model folder, or ComfyUI's models folder", type=parse_model_folder)
    json: bool = switch("--json", "as one JSON object")
    traceback: bool = TRACEBACK


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    folder: Path = argument("DIR", "folder to download to; run the same again to resume")
    part: list[str] = option(
        "--part",
        "",
        "download this component only; can be repeated",
        default=[],
        action="append",
        choices=COMPONENTS,
    )
    revision: str | None = option(
        "--revision",
        "REV",
        "commit to download (default: that of an earlier call, else the newest)",
    )
    dry_run: bool = switch("--dry-run", "list files and sizes, download nothing")
    traceback: bool = TRACEBACK


@dataclass(frozen=True, kw_only=True)
class TinyOptions:
    folder: Path = argument("DIR", "new or empty folder")
    seed: int = option("--seed", "N", "0 to 2^64 - 1 (default: 0)", default=0)
    size: str = option(
        "--size",
        "",
        "tiny: 64 x 96, 49 frames; nano: 32 x 32, 17 frames",
        default="tiny",
        choices=("tiny", "nano"),
    )
    traceback: bool = TRACEBACK
