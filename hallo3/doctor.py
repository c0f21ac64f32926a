"""Which files of a complete model are here, where missing ones belong, and how this computer can run it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from .attention_backend import list_runnable_titles
from .checkpoints.inspect import inspect
from .checkpoints.locate import CHECKPOINT_SIZE, PAGE, RELEASE, ModelFolder, output_path
from .checkpoints.tensor_file import UNFINISHED_SUFFIXES, unfinished_sibling
from .config import COMPONENT_TITLES, COMPONENTS, HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS, TrunkConfig
from .errors import Hallo3Error, InputError, sanitize
from .model.kernels.eager import PLAIN
from .model.kernels.select import AUTO, expected_kernels
from .offload.budget import plan_memory
from .offload.estimate import MemoryRequirements, measure_sizes
from .offload.system_memory import ram_bytes
from .quantization import PRECISIONS
from .storage.files import TEMPORARY_SUFFIX
from .units import GB, format_bytes

COMMON_LIMITS = (6, 8, 12, 16, 24)  # GB of common GPUs
WORKING_BYTES = 6 * GB  # beside weights, from shapes: activations, keys and values, a decode
NO_GPU = "No GPU that PyTorch can use: the released model would take days. The built-in model runs."


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentReport:
    """``path`` is empty if no file was found; ``state`` is "ready" or the error; ``advice`` is the fix."""

    part: str
    path: str
    size: int
    state: str
    advice: str

    @property
    def ready(self) -> bool:
        return self.state == "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Bytes of this computer; without a GPU its name is empty. ``attention`` lists the backends that run."""

    memory: int
    free_disk: int
    gpu: str
    gpu_memory: int
    attention: tuple[str, ...] = ()

    @classmethod
    def here(cls, folder: Path, attention: tuple[str, ...] | None = None) -> Machine:
        """``folder`` selects the disk. The default tries every attention backend."""
        existing = folder
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        gpu = torch.cuda.is_available()
        return cls(
            memory=ram_bytes(),
            free_disk=shutil.disk_usage(existing).free,
            gpu=torch.cuda.get_device_name() if gpu else "",
            gpu_memory=int(cast(Any, torch.cuda.get_device_properties(0)).total_memory) if gpu else 0,
            attention=list_runnable_titles(TrunkConfig().head_dim) if attention is None else attention,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``ceilings`` are the lines of ``describe_limits``."""

    folder: str
    parts: tuple[ComponentReport, ...]
    machine: Machine
    advice: tuple[str, ...]
    ceilings: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return all(part.ready for part in self.parts)


def diagnose(files: ModelFolder, machine: Machine | None = None, *, headless: bool = True) -> Report:
    """Check a model folder, the original's folder, or ComfyUI's models folder. ``headless`` advises on the
    options of the command; ComfyUI places weights itself. Missing and broken files are in the report and
    raise nothing."""
    machine = machine or Machine.here(files.path)
    parts = tuple(_check_component(files, name) for name in COMPONENTS)
    limits = describe_limits(machine.gpu_memory, machine.memory) if headless else ()
    advice = advise(machine, limits) if headless else advise_comfyui(machine)
    return Report(folder=str(files.path), parts=parts, machine=machine, advice=advice, ceilings=limits)


def describe_limits(gpu_memory: int, ram: int) -> tuple[str, ...]:
    """How a guided bf16 run fits this GPU (0: none) and each of ``COMMON_LIMITS``, a line each."""
    precision = PRECISIONS["bf16"]
    sizes = measure_sizes(HALLO3, precision, TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])
    kernels = expected_kernels(AUTO, torch.device("cuda" if gpu_memory else "cpu")).kernels
    requirements = MemoryRequirements(
        precision=precision, steps=HALLO3.defaults.steps, branches=2, fused=kernels is not PLAIN
    )

    def line(limit: int) -> str:
        try:
            return plan_memory(sizes, requirements, limit, ram).line()
        except InputError as error:
            return f"{error.headline} It needs {error.expected}."

    here = [f"this GPU, {format_bytes(gpu_memory)}: {line(gpu_memory)}"] if gpu_memory else []
    return (*here, *(f"--vram {size}: {line(size * GB)}" for size in COMMON_LIMITS))


def advise(machine: Machine, limits: tuple[str, ...] = ()) -> tuple[str, ...]:
    """How to run the released model with the command. ``limits`` default to those of the machine."""
    bf16, fp8 = (RELEASE["transformer"].size(bits) for bits in (16, 8))
    if not machine.gpu:
        advice = [NO_GPU]
    elif machine.gpu_memory >= bf16 + WORKING_BYTES:
        advice = ["bf16, everything on the GPU."]
    else:
        fits = "fp8 with everything on the GPU, or " if machine.gpu_memory >= fp8 + WORKING_BYTES else ""
        here = (limits or describe_limits(machine.gpu_memory, machine.memory))[0]
        advice = [f"{fits}bf16, planned for the free memory or for --vram, exact; {here.rstrip('.')}."]
    if machine.memory < bf16 + 4 * GB:
        from_disk = "a run on a GPU streams them from disk" if machine.gpu else "use --offload disk"
        advice.append(
            f"The weights need {format_bytes(bf16)} of RAM in bf16, {format_bytes(fp8)} in fp8; there are "
            f"{format_bytes(machine.memory)}: convert to fp8, or {from_disk}."
        )
    return (*advice, *_advise_disk(machine))


def advise_comfyui(machine: Machine) -> tuple[str, ...]:
    bf16, fp8 = (RELEASE["transformer"].size(bits) for bits in (16, 8))
    if not machine.gpu:
        return (NO_GPU,)
    if machine.memory + machine.gpu_memory >= bf16 + WORKING_BYTES + 4 * GB:
        advice = f"Use the bf16 files ({format_bytes(bf16)}); ComfyUI keeps on the GPU what fits."
    else:
        sizes = f"{format_bytes(fp8)} instead of {format_bytes(bf16)}"
        advice = f"Use the fp8 files ({sizes}): `hallo3 convert --dtype fp8`."
    return (advice, *_advise_disk(machine))


def _advise_disk(machine: Machine) -> tuple[str, ...]:
    if machine.free_disk >= CHECKPOINT_SIZE:
        return ()
    free, needed = format_bytes(machine.free_disk), format_bytes(CHECKPOINT_SIZE)
    return (f"The disk has {free} free; the download alone is {needed}.",)


def format_report(report: Report) -> str:
    lines = [f"Hallo3 in {report.folder}", ""]
    for part in report.parts:
        mark = "ok     " if part.ready else "MISSING" if not part.path else "WRONG  "
        lines.append(f"  {mark}  {part.part}: {COMPONENT_TITLES[part.part]}")
        if part.path:
            lines.append(f"             {part.path}, {format_bytes(part.size)}")
        if not part.ready:
            lines += [f"             {part.state}", f"             {part.advice}"]
    machine = report.machine
    gpu = f"{machine.gpu}, {format_bytes(machine.gpu_memory)}" if machine.gpu else "none"
    ram, disk = format_bytes(machine.memory), format_bytes(machine.free_disk)
    lines += ["", "This computer", f"  RAM {ram}; GPU {gpu}; free disk {disk}"]
    if machine.attention:
        lines.append(f"  attention: {', '.join(machine.attention)}")
    lines += [f"  {advice}" for advice in report.advice]
    if report.ceilings:
        lines += ["", "With a limit of GPU memory", *(f"  {line}" for line in report.ceilings)]
    lines += ["", "The model is complete." if report.ready else f"Missing files are at {PAGE}"]
    return "\n".join(sanitize(line) for line in lines)


def _check_component(files: ModelFolder, name: str) -> ComponentReport:
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
            advice = f"belongs at {place}: `hallo3 download` fetches it, `hallo3 convert` writes it there"
        return ComponentReport(part=name, path="", size=0, state=state, advice=advice)
    state, advice = "ready", ""
    try:
        component = next((each for each in inspect(path).parts if each.part == name), None)
        if component is None:
            state, advice = f"does not hold {COMPONENT_TITLES[name]}", "`hallo3 inspect` shows what it is"
        elif component.wrong:
            state, advice = component.wrong, "download or convert it again"
    except Hallo3Error as error:
        state, advice = f"{error.headline} {error.found}", error.fix
    content = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in content)
    return ComponentReport(part=name, path=str(path), size=size, state=state, advice=advice)
