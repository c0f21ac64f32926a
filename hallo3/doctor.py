"""Is everything there? Which files of a complete model are present, where the missing belong, and how this
machine can run them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from .attention import list_runnable_titles
from .checkpoints.detect_format import UNFINISHED, unfinished_sibling
from .checkpoints.inspect import FoundComponent, human, inspect
from .checkpoints.locate import CHECKPOINT_SIZE, COMFYUI, PAGE, PLACES, RELEASE, ModelFolder, is_comfyui
from .config import COMPONENT_TITLES, COMPONENTS, HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS, TrunkConfig
from .errors import Hallo3Error, InputError, sanitize
from .model.kernels.eager import PLAIN
from .model.kernels.select import AUTO, expected_kernels
from .offload.budget import GB, plan_memory
from .offload.estimate import MemoryRequirements, ModelSizes, measure_sizes
from .offload.system_memory import ram_bytes
from .quantization.precision import PRECISIONS
from .storage.atomic import TEMPORARY_SUFFIX

CEILINGS = (6, 8, 12, 16, 24)
"""GB that many cards have."""


def ceilings(gpu_memory: int, ram: int) -> tuple[str, ...]:
    """A line for this machine's card (0: none), and one for each of :data:`CEILINGS`; in bf16, guided."""
    sizes = measure_sizes(HALLO3, PRECISIONS["bf16"], TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])
    demand = _demand(torch.device("cuda" if gpu_memory else "cpu"))
    here = f"this card, {gpu_memory / GB:.1f} GB: {_line(sizes, demand, gpu_memory, ram)}"
    usual = (f"--vram {size}: {_line(sizes, demand, size * GB, ram)}" for size in CEILINGS)
    return (*([here] if gpu_memory else []), *usual)


def _demand(device: torch.device) -> MemoryRequirements:
    fused = expected_kernels(AUTO, device).kernels is not PLAIN
    return MemoryRequirements(
        precision=PRECISIONS["bf16"], steps=HALLO3.defaults.steps, branches=2, fused=fused
    )


def _line(sizes: ModelSizes, demand: MemoryRequirements, ceiling: int, ram: int) -> str:
    try:
        return plan_memory(sizes, demand, ceiling, ram).line()
    except InputError as error:
        return f"{error.headline} It takes {error.expected}."


WORKING = 6 * GB
"""Memory for everything but weights while a segment is sampled at full size: activations, keys and values,
the VAE's decoding. Reckoned from shapes, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentReport:
    """One part: where it was found (empty: nowhere), what is wrong with it, and what to do."""

    part: str
    path: str
    size: int
    state: str
    advice: str

    @property
    def good(self) -> bool:
        """Whether it can be used."""
        return self.state == "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine has, in bytes; no GPU is an empty name. ``attention`` are the backends that run
    here, or what the host has selected."""

    memory: int
    free_disk: int
    gpu: str
    gpu_memory: int
    attention: tuple[str, ...] = ()

    @classmethod
    def here(cls, folder: Path, attention: tuple[str, ...] | None = None) -> Machine:
        """This one; ``folder`` names the disk. Without a host's ``attention`` every backend is tried."""
        there = folder
        while not there.exists() and there != there.parent:
            there = there.parent
        gpu = torch.cuda.is_available()
        return cls(
            memory=ram_bytes(),
            free_disk=shutil.disk_usage(there).free,
            gpu=torch.cuda.get_device_name() if gpu else "",
            gpu_memory=int(cast(Any, torch.cuda.get_device_properties(0)).total_memory) if gpu else 0,
            attention=list_runnable_titles(TrunkConfig().head_dim) if attention is None else attention,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole diagnosis; ``advice`` says how to run on this machine, ``ceilings`` how under less or more of
    a GPU's memory."""

    folder: str
    parts: tuple[ComponentReport, ...]
    machine: Machine
    advice: tuple[str, ...]
    ceilings: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether every part is there and whole."""
        return all(part.good for part in self.parts)


def diagnose(files: ModelFolder, machine: Machine | None = None, *, headless: bool = True) -> Report:
    """Look at a model folder, the original's folder, or ComfyUI's models folder.

    ``headless`` advises on the command's options; ComfyUI decides such things itself. Raises nothing for
    what is missing or broken: that is in the report.
    """
    machine = machine or Machine.here(files.path)
    parts = tuple(_part(files, part) for part in COMPONENTS)
    under = ceilings(machine.gpu_memory, machine.memory) if headless else ()
    advice = advise(machine, under) if headless else advise_comfyui(machine)
    return Report(folder=str(files.path), parts=parts, machine=machine, advice=advice, ceilings=under)


def advise(machine: Machine, under: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """How the released model runs on a machine: precision, and what stays where. ``under`` are the lines of
    :func:`ceilings` for it, if they are there."""
    sixteen, eight = (RELEASE["transformer"].size(bits) for bits in (16, 8))
    said: list[str] = []
    if not machine.gpu:
        said.append("No GPU that torch can use: the released model would take days. The built-in model runs.")
    elif machine.gpu_memory >= sixteen + WORKING:
        said.append("bf16, everything on the GPU.")
    else:
        fits = "fp8 with everything on the GPU, or " if machine.gpu_memory >= eight + WORKING else ""
        here = (under or ceilings(machine.gpu_memory, machine.memory))[0]
        said.append(f"{fits}bf16, planned for what is free or for --vram, exact; {here.rstrip('.')}.")
    if machine.memory < sixteen + 4 * GB:
        elsewhere = (
            "let them come from disk, which a run on a GPU plans" if machine.gpu else "use --offload disk"
        )
        said.append(
            f"The weights want {human(sixteen)} of memory in bf16, {human(eight)} in fp8; there are "
            f"{human(machine.memory)}: convert to fp8, or {elsewhere}."
        )
    return (*said, *_room(machine))


def advise_comfyui(machine: Machine) -> tuple[str, ...]:
    """What to load in ComfyUI, which moves weights by itself."""
    sixteen, eight = (RELEASE["transformer"].size(bits) for bits in (16, 8))
    if not machine.gpu:
        return ("No GPU that torch can use: the released model would take days. The built-in model runs.",)
    if machine.memory + machine.gpu_memory >= sixteen + WORKING + 4 * GB:
        said = f"Use the bf16 files ({human(sixteen)}); ComfyUI keeps on the GPU what fits."
    else:
        said = (
            f"Use the fp8 files ({human(eight)} instead of {human(sixteen)}): `hallo3 convert --dtype fp8`."
        )
    return (said, *_room(machine))


def _room(machine: Machine) -> tuple[str, ...]:
    if machine.free_disk >= CHECKPOINT_SIZE:
        return ()
    free, needed = human(machine.free_disk), human(CHECKPOINT_SIZE)
    return (f"The disk has {free} free; the download alone is {needed}.",)


def format_report(report: Report) -> str:
    """For people to read."""
    lines = [f"Hallo3 in {report.folder}", ""]
    for part in report.parts:
        mark = "ok     " if part.good else "MISSING" if not part.path else "WRONG  "
        lines.append(f"  {mark}  {part.part}: {COMPONENT_TITLES[part.part]}")
        if part.path:
            lines.append(f"             {part.path}, {human(part.size)}")
        if not part.good:
            lines += [f"             {part.state}", f"             {part.advice}"]
    machine = report.machine
    gpu = f"{machine.gpu}, {human(machine.gpu_memory)}" if machine.gpu else "none"
    lines += ["", "This machine"]
    lines.append(f"  memory {human(machine.memory)}; GPU {gpu}; free disk {human(machine.free_disk)}")
    if machine.attention:
        lines.append(f"  attention: {', '.join(machine.attention)}")
    lines += [f"  {advice}" for advice in report.advice]
    if report.ceilings:
        lines += ["", "Under a ceiling of GPU memory", *(f"  {line}" for line in report.ceilings)]
    lines += ["", "Everything is there." if report.ready else f"What is missing: {PAGE}"]
    return "\n".join(sanitize(line) for line in lines)


def _part(files: ModelFolder, part: str) -> ComponentReport:
    path = files.find(part)
    if not path.exists():
        return _missing(files.path, part)
    try:
        seen = next((found for found in inspect(path).parts if found.part == part), None)
        state, advice = _judged(seen, part)
    except Hallo3Error as error:
        state, advice = f"{error.headline} {error.found}", error.fix
    return ComponentReport(part=part, path=str(path), size=_size(path), state=state, advice=advice)


def _judged(seen: FoundComponent | None, part: str) -> tuple[str, str]:
    if seen is None:
        return f"it does not hold {COMPONENT_TITLES[part]}", "`hallo3 inspect` says what it is"
    if seen.wrong:
        return seen.wrong, "download or convert it again"
    return "ready", ""


def _missing(folder: Path, part: str) -> ComponentReport:
    published = RELEASE[part]
    numbers, bits = ("fp32", 32) if part == "speech_encoder" else ("bf16", 16)
    place = COMFYUI[part].format(precision=numbers) if is_comfyui(folder) else PLACES[part][0]
    waiting = unfinished_sibling(folder / place, (*UNFINISHED, TEMPORARY_SUFFIX))
    state = (
        f"{waiting.name} is unfinished" if waiting else f"about {human(published.size(bits))} in {numbers}"
    )
    advice = (
        "run the command that makes it again: it goes on"
        if waiting
        else f"belongs at {place}: `hallo3 download` fetches it, `hallo3 convert` puts it there"
    )
    return ComponentReport(part=part, path="", size=0, state=state, advice=advice)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    return sum(file.stat().st_size for file in files)
