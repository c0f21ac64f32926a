"""Every option of every command."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from .. import __version__
from ..built_in import FOLDER, NAME
from ..media.encoding import CODECS
from ..parts import PARTS

ABOUT = "Animate one portrait from speech (Hallo3)."
CONVERT = (
    "Read tensors from the original's checkpoints, run nothing that is in them, and write safetensors files. "
    "Run the same command again after a stop: it goes on."
)
SIZES = ("tiny", "nano")
OFFLOAD = ("none", "blocks", "disk")
DEVICES = ("auto", "cpu", "cuda", "mps")
NUMBERS = ("fp32", "bf16", "fp16", "fp8")
DTYPES = ("auto", "fp32", "bf16", "fp16", "fp8", "float32", "bfloat16", "float16")


def parser() -> ArgumentParser:
    """The command line's parser."""
    top = ArgumentParser(prog="hallo3", description=ABOUT)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _animate(commands.add_parser("animate", help="portrait and speech in, video out", description=ABOUT))
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


def _animate(command: ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--portrait",
        type=Path,
        metavar="P",
        help="picture of one person, 64 px or more a side",
    )
    add("--speech", type=Path, metavar="S", help="audio or video file with the speech")
    add("--prompt", default="", metavar="T", help="what the picture shows (default: no text)")
    add(
        "--model",
        type=_model_folder,
        default=FOLDER,
        metavar="DIR",
        help=f"model folder, or {NAME}: small, for drawn faces (default: {NAME})",
    )
    add("-o", "--output", type=Path, metavar="OUT.mp4", help="video to write: .mp4, .mov or .mkv")
    add("--steps", type=int, metavar="N", help="sampling steps a segment (default: the model's)")
    add("--guidance", type=float, metavar="G", help="guidance scale; 1 is none (default: the model's)")
    add("--seed", type=int, default=0, metavar="N", help="0 to 2^64 - 1 (default: 0)")
    add("--sampler", metavar="NAME", help="dpmpp_2m_sde or ddim (default: the model's)")
    add("--enlarge", type=int, default=1, metavar="N", help="frames N times as large, 1 to 16 (default: 1)")
    add("--plan", action="store_true", help="print what a run would take and render nothing")
    add("--json", action="store_true", help="with --plan: as one JSON object")
    _face(command)
    _going_on(command)
    _video(command)
    expert = command.add_argument_group("for experts")
    add = expert.add_argument
    add("--device", choices=DEVICES, default="auto", help="where to compute (default: a GPU if there is one)")
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        metavar="TYPE",
        help="number type: fp32, bf16, fp16, or fp8 for half the memory (default: bf16 on a GPU, else fp32)",
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

    files = command.add_argument_group(
        "files that are not in the model's folder",
        "each a weights file, or a folder with one network's files",
    )
    for part in ("transformer", "reference", "vae", "text_encoder", "speech_encoder", "tokenizer", "faces"):
        files.add_argument(f"--{part.replace('_', '-')}", type=Path, metavar="PATH")


def _face(command: ArgumentParser) -> None:
    group = command.add_argument_group(
        "the face on a photograph",
        "For the released model, by antelopev2's scrfd_10g_bnkps.onnx and glintr100.onnx (--faces DIR).",
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


def _model_folder(text: str) -> Path:
    """The built-in model by its name, any other by its folder."""
    return FOLDER if text == NAME else Path(text)


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
        choices=PARTS,
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
    add("folder", type=_model_folder, metavar="DIR", help="a model folder, or ComfyUI's models folder")
    add("--json", action="store_true", help="as one JSON object")


def _download(command: ArgumentParser) -> None:
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="folder to download to; run again after a stop, it goes on")
    add("--part", action="append", choices=PARTS, help="only this part; may be given several times")
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
