"""What of a complete model is here and usable, where the rest belongs, and how this computer can run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from .attention_backend import list_runnable_titles
from .checkpoints.inspect import inspect
from .checkpoints.load import (
    check_belongs,
    check_component_samples,
    read_model_config,
    read_text_encoder_config,
)
from .checkpoints.locate import PAGE, RELEASE, VOCALS, ModelFolder, converted_size, download_size, output_path
from .checkpoints.tensor_file import UNFINISHED_SUFFIXES, unfinished_sibling
from .config import COMPONENT_TITLES, COMPONENTS, HALLO3, TEXT_ENCODERS, Hallo3Config, TrunkConfig
from .errors import CheckpointError, DependencyError, Hallo3Error, InputError, sanitize
from .face.arcface import ARCFACE_SPACE, RECOGNIZER_FILENAME, Recognizer
from .face.mediapipe import TASK_FILENAME, find_task_file, import_mediapipe, read_task_file
from .face.photo import FACE_DIRS, find_face_file
from .face.scrfd import DETECTOR_FILENAME, Detector
from .messages import command_line, python_line, redirect_messages
from .model.kernels.eager import PLAIN
from .model.kernels.select import AUTO, expected_kernels
from .offload.budget import MemoryPlan, plan_cpu_memory, plan_memory
from .offload.estimate import MemoryRequirements
from .offload.sizes import measure_folder
from .offload.system_memory import available_bytes, choose_cpu_precision, free_bytes, ram_bytes
from .quantization import PRECISIONS
from .speech.vocals import Separator
from .storage.files import TEMPORARY_SUFFIX, free_disk
from .text_encoder import make_tokenizer
from .units import GB, format_bytes
from .vae.causal_conv import avoids_cudnn

TITLES = COMPONENT_TITLES | {
    "tokenizer": "T5's tokenizer",
    "faces": "face analyzer (antelopev2)",
    "landmarks": "MediaPipe's face landmarks",
    "vocals": "vocal separator",
}
PURPOSES = {
    "reference": "for portraits; a saved identity needs none",
    "text_encoder": "only for prompts",
    "tokenizer": "only for prompts",
    "faces": "for photographs; a saved identity needs none",
    "landmarks": "optional, for the original's face mask; ComfyUI has a file of its own in models/detection",
    "vocals": "optional, removes music from recordings",
}
OWN_LOADERS = "vae", "text_encoder", "speech_encoder"
"""Components that ComfyUI loads with nodes of its own, which know only the released sizes."""
UNPUBLISHED = "not the published file: runs only with --faces-unverified (in ComfyUI: unverified)"
COMMON_LIMITS = (6, 8, 12, 16, 24)  # GB of common GPUs
WORKING_BYTES = 6 * GB  # beside weights, from shapes: activations, keys and values, a decode
NO_GPU = "No GPU that PyTorch can use: the released model would take days. The built-in model runs."


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentReport:
    """``path`` is empty if no file was found; ``state`` is "ready" or the error; ``advice`` is the fix. A
    video can be made without what is not ``required``."""

    part: str
    path: str
    size: int
    state: str
    advice: str
    required: bool = True

    @property
    def mark(self) -> str:
        if self.state == "ready":
            return "ok"
        return "WRONG" if self.path else "MISSING" if self.required else "absent"

    @property
    def ready(self) -> bool:
        return self.mark in ("ok", "absent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Bytes of this computer, and those that are free; without a GPU its name is empty. ``attention`` lists
    the backends that run."""

    memory: int
    free_disk: int
    gpu: str
    gpu_memory: int
    attention: tuple[str, ...] = ()
    available: int = 0
    gpu_free: int = 0

    @classmethod
    def here(cls, folder: Path, attention: tuple[str, ...] | None = None) -> Machine:
        """``folder`` selects the disk. The default tries every attention backend."""
        gpu = torch.cuda.is_available()
        return cls(
            memory=ram_bytes(),
            free_disk=free_disk(folder),
            gpu=torch.cuda.get_device_name() if gpu else "",
            gpu_memory=int(cast(Any, torch.cuda.get_device_properties(0)).total_memory) if gpu else 0,
            attention=list_runnable_titles(TrunkConfig().head_dim) if attention is None else attention,
            available=available_bytes(),
            gpu_free=free_bytes(torch.device("cuda")) if gpu else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``ceilings`` are the lines of ``describe_limits``; ``commands`` are lines for a terminal."""

    folder: str
    parts: tuple[ComponentReport, ...]
    machine: Machine
    advice: tuple[str, ...]
    ceilings: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return all(part.ready for part in self.parts)


def diagnose(files: ModelFolder, machine: Machine | None = None, *, headless: bool = True) -> Report:
    """Check a model folder, the original's folder, or ComfyUI's models folder. ``headless`` advises on the
    options of the command; ComfyUI places weights itself, and its users get the lines to type. Missing and
    broken files are in the report and raise nothing."""
    machine = machine or Machine.here(files.path)
    parts = [_check_component(files, name, headless=headless) for name in COMPONENTS]
    model: Hallo3Config | None = None
    with suppress(Hallo3Error):
        model = read_model_config(files.open("transformer"))
    alone = ("transformer",) if headless else ("transformer", *OWN_LOADERS)
    parts = [_check_sizes(files, part, HALLO3 if part.part in alone else model) for part in parts]
    if headless:  # ComfyUI's loader brings a tokenizer
        parts.append(_check_tokenizer(files, next(part for part in parts if part.part == "text_encoder")))
    if model is None or model.face.space == ARCFACE_SPACE:
        parts += [_check_faces(files), _check_landmarks(files)]
    separator = Separator(files.vocals or files.path / VOCALS[0])
    paths = [separator.path] if separator.path.exists() else []
    parts.append(_examine("vocals", paths, lambda: separator.network, required=False))
    limits = describe_limits(machine, files) if headless else ()
    advice = advise(machine, limits) if headless else advise_comfyui(machine)
    advice += _advise_disk(machine, parts)
    return Report(
        folder=str(files.path),
        parts=tuple(parts),
        machine=machine,
        advice=advice,
        ceilings=limits,
        commands=() if headless else _list_commands(files.path, machine, parts),
    )


def describe_limits(machine: Machine, files: ModelFolder) -> tuple[str, ...]:
    """How a guided run with a prompt fits this computer, and in bf16 each of ``COMMON_LIMITS``, a line each;
    as in ``--plan``."""
    config, available = HALLO3, machine.available or machine.memory
    with suppress(Hallo3Error):
        config = read_model_config(files.open("transformer"))
    kernels = expected_kernels(AUTO, torch.device("cuda" if machine.gpu else "cpu")).kernels
    needs = MemoryRequirements(
        precision=PRECISIONS["bf16"], steps=config.defaults.steps, branches=2, fused=kernels is not PLAIN
    )
    sizes = measure_folder(files, config, needs.precision)

    def line(plan: Callable[[], MemoryPlan]) -> str:
        try:
            return plan().line()
        except InputError as error:
            return f"{error.headline} It needs {error.expected}."

    def on_gpu(limit: int) -> str:
        return line(lambda: plan_memory(sizes, needs, limit, available))

    if machine.gpu:
        free = machine.gpu_free or machine.gpu_memory
        here = f"this GPU, {format_bytes(free)}: {on_gpu(free)}"
    else:
        name = choose_cpu_precision(files, config, config.defaults.steps, machine.memory)
        precision = PRECISIONS[name]
        sizes_here, needs_here = measure_folder(files, config, precision), replace(needs, precision=precision)
        plan = line(lambda: plan_cpu_memory(sizes_here, needs_here, available))
        here = f"this CPU in {name}, {format_bytes(available)} of RAM: {plan}"
    return (here, *(f"--vram {size}: {on_gpu(size * GB)}" for size in COMMON_LIMITS))


def advise(machine: Machine, limits: Sequence[str]) -> tuple[str, ...]:
    """How to run the released model with the command, given the lines of ``describe_limits``."""
    bf16, fp8 = (RELEASE["transformer"].size(bits) for bits in (16, 8))
    if not machine.gpu:
        advice = [NO_GPU]
    elif machine.gpu_memory >= bf16 + WORKING_BYTES:
        advice = ["bf16, everything on the GPU."]
    else:
        fits = "fp8 with everything on the GPU, or " if machine.gpu_memory >= fp8 + WORKING_BYTES else ""
        advice = [f"{fits}bf16, planned for the free memory or for --vram, exact; {limits[0].rstrip('.')}."]
    if machine.gpu and avoids_cudnn():
        advice.append(
            "This PyTorch convolves 16-bit video without cuDNN: the VAE calls cuDNN directly. PyTorch 2.10 "
            "or cuDNN 9.15 need no such call."
        )
    if machine.memory < bf16 + 4 * GB:
        advice.append(
            f"The weights need {format_bytes(bf16)} of RAM in bf16, {format_bytes(fp8)} in fp8; there are "
            f"{format_bytes(machine.memory)}: convert to fp8, or a run streams them from disk."
        )
    return tuple(advice)


def advise_comfyui(machine: Machine) -> tuple[str, ...]:
    bf16, fp8 = (RELEASE["transformer"].size(bits) for bits in (16, 8))
    if not machine.gpu:
        return (NO_GPU,)
    if _fits_bf16(machine):
        return (f"Use the bf16 files ({format_bytes(bf16)}); ComfyUI keeps on the GPU what fits.",)
    return (f"Use the fp8 files ({format_bytes(fp8)} instead of {format_bytes(bf16)}).",)


def _fits_bf16(machine: Machine) -> bool:
    return machine.memory + machine.gpu_memory >= RELEASE["transformer"].size() + WORKING_BYTES + 4 * GB


def _list_commands(models: Path, machine: Machine, parts: Sequence[ComponentReport]) -> tuple[str, ...]:
    """With this Python, from any folder."""
    lines: list[str] = []
    if any(part.part in RELEASE and not part.ready for part in parts):
        weights, fp8 = models.parent / "hallo3_weights", () if _fits_bf16(machine) else ("--dtype", "fp8")
        lines += [command_line("download", weights), command_line("convert", weights, models, *fp8)]
    if any(part.part == "faces" for part in parts) and find_spec("onnxruntime") is None:
        lines.append(python_line("-m", "pip", "install", "onnxruntime"))
    return tuple(lines)


def _advise_disk(machine: Machine, parts: Sequence[ComponentReport]) -> tuple[str, ...]:
    """What downloading and converting still take."""
    components = [part for part in parts if part.part in RELEASE and not part.path.endswith(".safetensors")]
    if not components:
        return ()
    missing, names = [part.part for part in components if not part.path], [part.part for part in components]
    download, written, fp8 = download_size(missing), converted_size(names), converted_size(names, 8)
    text = f"converting writes {format_bytes(written)} (bf16) or {format_bytes(fp8)} (fp8)"
    if missing:
        text = f"downloading takes {format_bytes(download)}, {text} more: {format_bytes(download + written)}"
    free = f"{format_bytes(machine.free_disk)} are free"
    return (f"Disk: {text}; {free}. The download may be deleted after converting.",)


def format_report(report: Report) -> str:
    lines = [f"Hallo3 in {report.folder}", ""]
    for part in report.parts:
        purpose = f" ({PURPOSES[part.part]})" if part.part in PURPOSES else ""
        lines.append(f"  {part.mark:7}  {part.part}: {TITLES[part.part]}{purpose}")
        if part.path:
            lines.append(f"             {part.path}, {format_bytes(part.size)}")
        notes = part.state if part.state != "ready" else "", part.advice
        lines += [f"             {note}" for note in notes if note]
    machine = report.machine
    gpu = f"{machine.gpu}, {format_bytes(machine.gpu_memory)}" if machine.gpu else "none"
    ram, disk = format_bytes(machine.memory), format_bytes(machine.free_disk)
    lines += ["", "This computer", f"  RAM {ram}; GPU {gpu}; free disk {disk}"]
    if machine.attention:
        lines.append(f"  attention: {', '.join(machine.attention)}")
    lines += [f"  {advice}" for advice in report.advice]
    if report.ceilings:
        lines += [
            "",
            "Memory of a run with the model's steps and a prompt",
            *(f"  {line}" for line in report.ceilings),
        ]
    if report.commands:
        lines += ["", "In a terminal, with this Python", *(f"  {line}" for line in report.commands)]
    lines += ["", "The model is complete." if report.ready else f"Missing files are at {PAGE}"]
    return "\n".join(sanitize(line) for line in lines)


def _examine(
    part: str, paths: Sequence[Path], check: Callable[[], object], *, required: bool = True
) -> ComponentReport:
    """``check`` returns advice, or raises if the files cannot be used."""
    state = "ready"
    try:
        advice = check()
    except Hallo3Error as error:
        state, advice = f"{error.headline} {error.found}", error.fix
        paths = () if isinstance(error, DependencyError) else paths  # what is there is not broken
    return ComponentReport(
        part=part,
        path=str(paths[0]) if paths else "",
        size=sum(path.stat().st_size for path in paths),
        state=state,
        advice=advice if isinstance(advice, str) else "",
        required=required,
    )


def _check_tokenizer(files: ModelFolder, text: ComponentReport) -> ComponentReport:
    folder = files.find("tokenizer")
    folder = folder if folder.exists() else output_path(files.path, "tokenizer", "")

    def check() -> None:
        if text.state == "ready":
            read_text_encoder_config(files.open("text_encoder"), folder)
        else:
            make_tokenizer("t5", TEXT_ENCODERS["hallo3"]["vocab_size"], folder)

    paths = [path for path in (folder / "spiece.model", folder / "tokenizer.json") if path.is_file()][:1]
    return _examine("tokenizer", paths, check, required=bool(text.path))


def _check_faces(files: ModelFolder) -> ComponentReport:
    folder, networks = files.faces or files.path / FACE_DIRS[0], (Detector, Recognizer)
    names = DETECTOR_FILENAME, RECOGNIZER_FILENAME

    def check() -> str:
        advice = ""
        for network, name in zip(networks, names, strict=True):
            path = find_face_file(folder, name)
            try:
                _ = network(path).network
            except CheckpointError:
                with redirect_messages(lambda _: None), suppress(CheckpointError):
                    _ = network(path, unverified=True).network
                    advice = UNPUBLISHED
                    continue
                raise
        return advice

    paths = list[Path]()
    with suppress(Hallo3Error):
        paths += [find_face_file(folder, name) for name in names]
    return _examine("faces", paths, check)


def _check_landmarks(files: ModelFolder) -> ComponentReport:
    """ComfyUI has a file of its own, which its nodes give."""
    folder, port = files.faces or files.path / FACE_DIRS[0], files.given.get("landmarks")
    path = port or find_task_file(folder)

    def check() -> None:
        if port is None:
            read_task_file(path or folder / TASK_FILENAME)
            import_mediapipe()

    return _examine("landmarks", [path] if path else [], check, required=False)


def _check_component(files: ModelFolder, name: str, *, headless: bool) -> ComponentReport:
    path = files.find(name)
    if not path.exists():
        precision, bits = ("fp32", 32) if name == "speech_encoder" else ("bf16", 16)
        target = output_path(files.path, name, precision)
        if unfinished := unfinished_sibling(target, (*UNFINISHED_SUFFIXES, TEMPORARY_SUFFIX)):
            state = f"{unfinished.name} is unfinished"
            advice = "run the command that writes it again: it resumes"
        else:
            state = f"about {format_bytes(RELEASE[name].size(bits))} in {precision}"
            place = target.relative_to(files.path).as_posix()
            advice = f"belongs at {place}"
            if headless:
                advice += ": `hallo3 download` fetches it, `hallo3 convert` writes it there"
        required = name != "text_encoder"
        return ComponentReport(part=name, path="", size=0, state=state, advice=advice, required=required)
    state, advice, size = "ready", "", path.stat().st_size if path.is_file() else 0
    try:
        component = next((each for each in inspect(path).parts if each.part == name), None)
        if component is None:
            state, advice = f"does not hold {COMPONENT_TITLES[name]}", "`hallo3 inspect` shows what it is"
        else:
            size = component.size
        if component is not None and component.wrong:
            state, advice = component.wrong, "download or convert it again"
        check_component_samples(path)
    except Hallo3Error as error:
        state, advice = f"{error.headline} {error.found}", error.fix
    return ComponentReport(part=name, path=str(path), size=size, state=state, advice=advice)


def _check_sizes(files: ModelFolder, report: ComponentReport, model: Hallo3Config | None) -> ComponentReport:
    """A whole file may be of another than the ``model``, if one is known."""
    if report.state != "ready" or model is None:
        return report
    try:
        check_belongs(files.open(report.part), report.part, model)
    except CheckpointError:
        if report.part == "transformer":
            return replace(report, advice="a model of its own, of other sizes than the released one")
        state = "of another model: its sizes do not fit the transformer"
        if model is HALLO3:
            state = "of another model: its sizes are not the released model's"
        return replace(report, state=state, advice="use the published file, or all files of one model")
    return report
