"""The options of ``hallo3 animate``."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..attention import BACKENDS
from ..built_in import FOLDER, NAME
from ..config import COMPONENTS
from ..errors import InputError
from ..media.framing import FRAMINGS
from ..media.loudness import AS_RECORDED, LEVELS, SILENCES
from ..media.video import CODECS
from ..messages import logger
from ..model.kernels.select import AUTO as AUTO_KERNELS
from ..model.kernels.select import NAMES
from ..sampling.samplers import SAMPLERS
from ..settings import APPROXIMATIONS, UNTESTED, Settings, get_approximations
from ..speech.features import AUTO, EXACT_MINUTES, HEARINGS, WINDOW_MINUTES


def approximate_option(command: ArgumentParser) -> None:
    """Give a command ``--approximate``."""
    group = command.add_argument_group(
        "approximations",
        f"Faster, and not the same video; {UNTESTED}. "
        + " ".join(f"{row.name}: {row.about}." for row in APPROXIMATIONS.values()),
    )
    group.add_argument(
        "--approximate",
        action="append",
        default=[],
        metavar="NAME[,NAME]",
        help="by these names; may be given several times (default: nothing is approximated)",
    )


def approximated(settings: Settings, options: Namespace, *, known: bool) -> Settings:
    """The settings with what is asked for; ``known`` is a model with which it has been tried.

    Warns of what saves nothing, which is left out. Raises ``InputError`` for names that are none, and for
    what contradicts itself.
    """
    names = (name.strip() for text in options.approximate for name in text.split(","))
    chosen = get_approximations(names)
    for row in chosen:
        if "steps" in row.changes and options.steps is not None:
            raise InputError(
                "There are two answers to how many steps are to be sampled.",
                found=f"--steps {options.steps} and --approximate {row.name}",
                expected="one of them",
                fix=f"leave --steps or {row.name} out",
            )
    used: list[str] = []
    for row in chosen:
        if row.saves(settings):
            settings = row.on(settings)
            used.append(row.name)
        else:
            run = f"{settings.steps} step{'s' * (settings.steps > 1)}, guidance {settings.guidance_scale:g}"
            logger.warning(f"{row.name} saves nothing here ({run}) and is left out")
    if used and not known:
        logger.warning(f"{', '.join(used)}: {UNTESTED}")
    return settings


AUTO_VRAM = "auto"


def vram_option(add: Callable[..., Any]) -> None:
    """Give a group of options ``--vram``, by its ``add_argument``."""
    add(
        "--vram",
        type=gigabytes,
        metavar="GB",
        help="use at most so much of the GPU's memory, in 10^9 bytes, for all that a run does; exact: what "
        "does not fit comes when it is needed. With --plan no GPU is needed (default: auto, what a CUDA GPU "
        "has free; --low-memory and --offload switch the plan off)",
    )


def gigabytes(text: str) -> float | str:
    """Gigabytes, or ``auto``."""
    if text == AUTO_VRAM:
        return text
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a number of GB nor {AUTO_VRAM}") from None


HERE = Path()
"""A file that is to be found, as it is not named."""
OFFLOAD = ("none", "blocks", "disk")
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "fp32", "bf16", "fp16", "fp8", "fp8-products", "int8", "float32", "bfloat16", "float16")


def animate_options(command: ArgumentParser) -> None:
    """Give ``hallo3 animate`` its options."""
    add = command.add_argument
    add(
        "--portrait",
        type=Path,
        metavar="P",
        help="picture of one person, 64 px or more a side",
    )
    add(
        "--identity",
        type=Path,
        metavar="FILE",
        help="an identity from --save-identity, in place of a portrait",
    )
    add("--speech", type=Path, metavar="S", help="audio or video file with the speech")
    add("--prompt", default="", metavar="T", help="what the picture shows (default: no text)")
    add(
        "--model",
        type=model_folder,
        default=FOLDER,
        metavar="DIR",
        help=f"model folder, or {NAME}: small, for drawn faces (default: {NAME})",
    )
    add("-o", "--output", type=Path, metavar="OUT.mp4", help="video to write: .mp4, .mov or .mkv")
    add("--steps", type=int, metavar="N", help="sampling steps a segment (default: the model's)")
    add("--guidance", type=float, metavar="G", help="guidance scale; 1 is none (default: the model's)")
    add("--seed", type=int, default=0, metavar="N", help="0 to 2^64 - 1 (default: 0)")
    add("--sampler", metavar="NAME", help=f"{', '.join(SAMPLERS)} (default: the model's)")
    add("--enlarge", type=int, default=1, metavar="N", help="frames N times as large, 1 to 16 (default: 1)")
    add("--plan", action="store_true", help="print what a run would take and render nothing")
    add("--json", action="store_true", help="with --plan: as one JSON object")
    _face(command)
    _speech(command)
    _going_on(command)
    _video(command)
    approximate_option(command)
    expert = command.add_argument_group("for experts")
    add = expert.add_argument
    add("--device", choices=DEVICES, default="auto", help="where to compute (default: a GPU if there is one)")
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        metavar="TYPE",
        help="number type: fp32, bf16, fp16, or fp8 for half the memory; fp8-products and int8 multiply in "
        "eight bits too, which is an approximation (default: bf16 on a GPU, else fp32)",
    )
    add(
        "--posterior",
        choices=("mean", "sample"),
        default="mean",
        help="sample: as the original encodes pictures",
    )
    add(
        "--low-memory",
        action="store_true",
        help="for small GPUs: one branch at a time, conditions projected when read, --offload blocks",
    )
    add(
        "--offload",
        choices=OFFLOAD,
        help="keep the transformer's blocks in memory (blocks) or on disk, and send each to the GPU when it "
        "is needed; exact (default: none; with --low-memory: blocks)",
    )
    vram_option(add)
    add(
        "--attention",
        default="auto",
        metavar="NAME",
        help=f"{', '.join(backend.title for backend in BACKENDS.values())}; `hallo3 doctor` says which run "
        "here (default: auto, torch's own choice)",
    )

    add(
        "--kernels",
        choices=NAMES,
        default=AUTO_KERNELS,
        help="what computes between matrix products: torch's own operations (plain), or one kernel for "
        "several of them (fused; exact). auto: fused on a GPU with Triton, where they are tried first",
    )
    files = command.add_argument_group(
        "files that are not in the model's folder",
        "each a weights file, or a folder with one network's files",
    )
    for part in ("transformer", "reference", "vae", "text_encoder", "speech_encoder", "tokenizer", "faces"):
        files.add_argument(f"--{part.replace('_', '-')}", type=Path, metavar="PATH")


def _face(command: ArgumentParser) -> None:
    group = command.add_argument_group(
        "the portrait",
        "Faces on photographs: by antelopev2's scrfd_10g_bnkps.onnx and glintr100.onnx (--faces DIR).",
    )
    add = group.add_argument
    add(
        "--face",
        type=int,
        default=0,
        metavar="N",
        help="which face, from the left (default: the largest)",
    )
    add(
        "--whole-picture",
        action="store_true",
        help="go on where no face is found, as the original does",
    )
    add("--face-box", metavar="L,T,R,B", help="the face is here, in pixels: left, top, right, bottom")
    add(
        "--framing",
        choices=FRAMINGS,
        default="auto",
        help="face: crop round the face; original: the middle; auto: face, unless the portrait is square or "
        "3:2 already (default: auto)",
    )
    add("--paste-back", action="store_true", help="the video is the whole photograph, the crop moves in it")
    add("--preview", type=Path, metavar="PNG", help="draw what is used of the portrait, before rendering")
    add(
        "--save-identity",
        type=Path,
        metavar="FILE",
        help="keep what was extracted of the portrait, for --identity: no reference network is needed then",
    )


def _speech(command: ArgumentParser) -> None:
    group = command.add_argument_group(
        "the speech", "What the model hears; the video's own sound is the recording in any case."
    )
    add = group.add_argument
    add(
        "--level",
        choices=tuple(map(dashed, LEVELS)),
        default=dashed(AS_RECORDED),
        help="evened: raise quiet passages, so that a quieter second speaker is heard (default: as-recorded)",
    )
    add(
        "--silence",
        choices=tuple(map(dashed, SILENCES)),
        default=dashed(AS_RECORDED),
        help="muted: pauses are true silence, so that the noise of a room does not move the mouth (default: "
        "as-recorded)",
    )
    add(
        "--hearing",
        choices=HEARINGS,
        default=AUTO,
        help=f"windows: an approximation for recordings of hours, {WINDOW_MINUTES} minutes at once; auto: "
        f"exact up to {EXACT_MINUTES} minutes (default: auto)",
    )
    add(
        "--vocals",
        type=Path,
        nargs="?",
        const=HERE,
        metavar="FILE",
        help="take music away before listening, as the original does, by Kim_Vocal_2.onnx: this FILE, or "
        "the one in the model's folder (default: off)",
    )
    add("--speech-chart", type=Path, metavar="PNG", help="draw loudness, silence and segments, at the start")


def _going_on(command: ArgumentParser) -> None:
    group = command.add_argument_group(
        "going on",
        "Finished segments are kept beside the video; the same command goes on where it was stopped.",
    )
    add = group.add_argument
    add("--jobs", action="store_true", help="list what is kept, and render nothing")
    add(
        "--jobs-folder",
        type=Path,
        metavar="DIR",
        help="where to keep it (default: hallo3_jobs, beside the video)",
    )
    add("--fresh", action="store_true", help="start again; what was finished is put aside")
    add("--redo", default="", metavar="A-B", help="render segments A to B anew (from 1; A- is to the end)")
    add("--take", type=int, default=1, metavar="N", help="with --redo: which of many versions (default: 1)")
    add("--continue-from", metavar="VIDEO", help="go on from this finished video, or job, with this speech")


def _video(command: ArgumentParser) -> None:
    add = command.add_argument_group("the video file").add_argument
    add("--codec", choices=tuple(CODECS), default="h264", help="how it is encoded (default: h264)")
    add("--quality", type=int, metavar="N", help="0 is best (default: 17 for h264, 20 for h265)")
    add("--pixels", metavar="FORMAT", help="as FFmpeg calls them (default: yuv420p, or what the codec has)")
    add("--chart", type=Path, metavar="PNG", help="draw how sharpness, colours, seams and face go over time")
    add("--no-mark", action="store_true", help="do not say in the file that the video is made by a machine")


def dashed(word: str) -> str:
    """A choice of several words as one."""
    return word.replace(" ", "-")


def model_folder(text: str) -> Path:
    """The built-in model by its name, any other by its folder."""
    return FOLDER if text == NAME else Path(text)


ABOUT = "Animate one portrait from speech (Hallo3)."
CONVERT = (
    "Read tensors from the original's checkpoints, run nothing that is in them, and write safetensors files. "
    "Run the same command again after a stop: it goes on."
)
SIZES = ("tiny", "nano")
NUMBERS = ("fp32", "bf16", "fp16", "fp8")


def parser() -> ArgumentParser:
    """The command line's parser."""
    top = ArgumentParser(prog="hallo3", description=ABOUT)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    animate_options(
        commands.add_parser("animate", help="portrait and speech in, video out", description=ABOUT)
    )
    _jobs(commands.add_parser("jobs", help="what is kept of videos, to list and to clear"))
    _convert(
        commands.add_parser("convert", help="the original's checkpoints to safetensors", description=CONVERT)
    )
    _inspect(commands.add_parser("inspect", help="what a file of weights is"))
    _doctor(commands.add_parser("doctor", help="is a model complete, and how can this machine run it?"))
    _download(commands.add_parser("download", help="fetch the original's files (uses the network)"))
    _tiny(commands.add_parser("tiny", help="write a complete set of small random weights"))
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where an unexpected error arose")
    return top


def _convert(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "source",
        type=Path,
        metavar="SRC",
        help="a checkpoint, or the folder the original was downloaded into",
    )
    add("target", type=Path, metavar="DST", help="folder to write to; ComfyUI's models folder is recognised")
    add("--dtype", choices=NUMBERS, default="bf16", help="number type of what is written (default: bf16)")
    add(
        "--part",
        action="append",
        choices=COMPONENTS,
        help="convert this part only; may be given several times (default: all that are there)",
    )
    add(
        "--config", type=Path, metavar="JSON", help="the sizes of a checkpoint that is not the released model"
    )


def _jobs(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "folder",
        type=Path,
        nargs="?",
        default=Path(),
        metavar="DIR",
        help="where the videos are (default: here)",
    )
    add("--clear", nargs="+", metavar="JOB", help="take these jobs away, by name; all: every one")


def _inspect(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="a file, or a folder with the files of one network",
    )
    add("--json", action="store_true", help="as JSON")


def _doctor(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=model_folder, metavar="DIR", help="a model folder, or ComfyUI's models folder")
    add("--json", action="store_true", help="as one JSON object")


def _download(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="folder to download to; run again after a stop, it goes on")
    add("--part", action="append", choices=COMPONENTS, help="only this part; may be given several times")
    add(
        "--revision",
        metavar="REV",
        help="commit to fetch (default: that of an earlier call, else the newest)",
    )
    add("--dry-run", action="store_true", help="list files and sizes, download nothing")


def _tiny(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="new or empty folder")
    add("--seed", type=int, default=0, metavar="N", help="0 to 2^64 - 1 (default: 0)")
    add("--size", choices=SIZES, default="tiny", help="tiny: 64 x 96, 49 frames; nano: 32 x 32, 17 frames")
