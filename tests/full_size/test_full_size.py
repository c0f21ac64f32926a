"""The released files at their true size, with made-up values, through every command of the README; memory and
reading are measured. Linux.

    HALLO3_FULL_SIZE=FOLDER pytest -m soak -s tests/full_size

An hour, and 90 GB of disk or 52: then the networks are converted in turn. What FOLDER has is not made again.
HALLO3_SCALE=0.25 is a quarter of the width, and keeps no figures.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from conftest import REPOSITORY
from full_size.generate import WRITERS, Sizes, made_up_tensor, networks, write_inputs, write_networks
from full_size.measure import Run, limited_group, measure
from full_size.readme import commands
from hallo3.checkpoints import keymaps
from hallo3.checkpoints.locate import output_path
from hallo3.storage.files import read_json_or_empty
from soak.machine import keep
from support.original_checkpoints import to_ours

pytestmark = [pytest.mark.soak, pytest.mark.any_message]
RESULTS = REPOSITORY / "docs/measurements/full_size.json"
WHOLE_GB, IN_TURN_GB = 90, 52
NETWORKS = {
    "transformer": (keymaps.TRANSFORMER, keymaps.TRANSFORMER_PREFIX),
    "reference": (keymaps.REFERENCE, keymaps.REFERENCE_PREFIX),
}
COMPARED = re.compile(r"\.(0|21|41)\.")  # layers of a network whose every value is compared
MAX_CONVERT_GB, MAX_ANIMATE_GB, MAX_READ_GB, MAX_CPU_SECONDS = 0.5, 3.0, 30, 60
MAX_PLANNED = 1.15  # of what is measured
SPEECH_SECONDS = 0.3
SCALE = float(os.environ.get("HALLO3_SCALE", "1"))
SIZES = Sizes.scaled(SCALE)
OTHERS = "text_encoder", "vae", "speech_encoder"
MODES = {
    "disk, 8 GB": (8, ["--offload", "disk"]),
    "default, 8 GB": (8, []),
    "default, 16 GB": (16, []),
}
"""GB of the control group, and options; --prompt is always one."""


class Session:
    """A user's folder with ``weights`` and ``ComfyUI/models``; every command's figures by name."""

    def __init__(self, folder: Path) -> None:
        before = read_json_or_empty(RESULTS)
        self.folder, self.figures = folder, {k: v for k, v in before.items() if k != "machine"}
        self.download, self.models = folder / "weights", folder / "ComfyUI/models"
        for name in ("diffusion_models", "vae"):
            (self.models / name).mkdir(parents=True, exist_ok=True)
        self.portrait, self.speech = write_inputs(folder, SPEECH_SECONDS)

    def generate(self, what: str, write: Callable[[], object]) -> None:
        started = time.perf_counter()
        write()
        self.note(f"generate {what}", {"seconds": round(time.perf_counter() - started, 1)})

    def run(self, name: str, words: list[str], gigabytes: float = 0, note: Path | None = None) -> Run:
        """Run the command in the folder, limited to this many gigabytes of memory, and note its figures."""
        group = limited_group(gigabytes) if gigabytes else None
        if gigabytes and group is None:
            print(f"NOT MEASURED: {name}, because no memory control group can be made here")
            pytest.skip("no memory control group can be made here")
        shutil.rmtree(self.folder / "hallo3_jobs", ignore_errors=True)  # so that nothing is resumed
        start = ["-m", "hallo3"]
        if note is not None:
            note.unlink(missing_ok=True)
            start = [str(REPOSITORY / "tests/full_size/first_step.py"), str(note)]
        path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
        log = self.folder / f"{re.sub(r'[^a-z0-9]+', '_', name)}.log"
        run = measure([*start, *words], group, log, cwd=self.folder, HOME=str(self.folder), PYTHONPATH=path)
        before = {"before_first_step": json.loads(note.read_text())} if note and note.exists() else {}
        self.note(name, run.figures | before | ({"exit": run.code} if run.code else {}))
        assert run.code == 0, f"{name}: {run.output[-2000:]}\n{log.read_text()[-2000:]}"
        return run

    def note(self, name: str, figures: dict[str, Any]) -> None:
        self.figures[name] = figures
        print(name, json.dumps(figures), flush=True)

    def converted(self, part: str) -> Path:
        return output_path(self.models, part, "fp32" if part == "speech_encoder" else "bf16")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    kept = os.environ.get("HALLO3_FULL_SIZE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("full_size")
    free = shutil.disk_usage(folder).free / 1e9
    session = Session(folder)
    if free < IN_TURN_GB * SCALE and not session.converted("transformer").exists():
        pytest.skip(f"{free:.0f} GB of disk are free in {folder} (HALLO3_FULL_SIZE), not {IN_TURN_GB}")
    yield session
    if SCALE == 1:
        keep("full_size.json", session.figures)
    if not kept:
        shutil.rmtree(folder)  # pytest keeps folders, and this is large


def compare(session: Session, part: str) -> None:
    """Every value of some layers of a converted network with what was written into the checkpoint."""
    keys, prefix = NETWORKS[part]
    compared = 0
    with safe_open(session.converted(part), "pt") as found:
        for name, tensor in networks(SIZES).items():
            if name.startswith(prefix) and COMPARED.search(name):
                published = {name.removeprefix(prefix): made_up_tensor(name, tensor)}
                for ours, value in to_ours(keys, published).items():
                    assert torch.equal(found.get_tensor(ours), value), ours
                    compared += value.numel()
    assert compared > 2e8 * SCALE**2
    session.note(f"compare {part}", {"equal_values": compared})


def test_download_and_convert(session: Session) -> None:
    """As the README says where there is room; else network by network, each deleted when it is converted."""
    free = shutil.disk_usage(session.folder).free / 1e9
    missing = [part for part in (*NETWORKS, *OTHERS) if not session.converted(part).exists()]
    if len(missing) == 5 and free >= WHOLE_GB * SCALE:
        for part, write in WRITERS.items():
            session.generate(part, partial(write, session.download, SIZES))
        session.run("convert", ["convert", "weights", "ComfyUI/models"])
    else:
        print(f"{free:.0f} GB of disk are free, not {WHOLE_GB}: {', '.join(missing)} are converted in turn")
        for part in missing:
            write = WRITERS.get(part) or partial(write_networks, only=NETWORKS[part][1])
            session.generate(part, partial(write, session.download, SIZES))
            session.run(f"convert {part}", ["convert", "weights", "ComfyUI/models", "--part", part])
            shutil.rmtree(session.download)
        WRITERS["faces"](session.models, SIZES)
    for part in NETWORKS:
        compare(session, part)
    peaks = {name: each["peak_gb"] for name, each in session.figures.items() if name.startswith("convert")}
    assert max(peaks.values(), default=0) <= MAX_CONVERT_GB, peaks
    shutil.rmtree(session.download, ignore_errors=True)  # as the README allows


def test_other_lines_of_the_readme(session: Session) -> None:
    for words in commands():
        if words[0] not in ("download", "convert"):
            words = [str(session.converted("transformer")) if word == "FILE" else word for word in words]
            animates = words[0] == "animate"
            note = session.folder / "first_step.json" if animates else None
            session.run(f"README: {words[0]}", words + ["--faces-unverified"] * animates, note=note)
    before = session.figures["README: animate"]["before_first_step"]
    assert before["read_gb"] <= MAX_READ_GB
    assert before["cpu_seconds"] <= MAX_CPU_SECONDS


@pytest.mark.parametrize("mode", MODES)
def test_a_trial_in_little_memory(session: Session, mode: str) -> None:
    gigabytes, flags = MODES[mode]
    note, video = session.folder / "first_step.json", session.folder / f"{gigabytes}{len(flags)}.mp4"
    inputs = ["--portrait", "me.png", "--speech", "me.wav", "--prompt", "a person talks to the camera"]
    words = ["animate", "--trial", "--model", "ComfyUI/models", *inputs, "--faces-unverified", *flags]
    plan = session.run(f"plan ({mode})", [*words, "--plan", "--json"], gigabytes)
    session.run(f"animate ({mode})", [*words, "-o", str(video)], gigabytes, note)
    assert video.exists()
    figures = session.figures[f"animate ({mode})"]
    figures["planned_gb"] = round(json.loads(plan.output)["memory"] / 1e9, 2)
    assert figures["before_first_step"]["cpu_seconds"] <= MAX_CPU_SECONDS
    assert figures["peak_gb"] <= (MAX_ANIMATE_GB if flags else gigabytes)


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_is_at_most_15_percent_above_what_is_used(session: Session, mode: str) -> None:
    figures = session.figures[f"animate ({mode})"]
    assert figures["peak_gb"] <= figures["planned_gb"] <= MAX_PLANNED * figures["peak_gb"]


def test_fp8_at_full_width(session: Session) -> None:
    source = session.converted("transformer")
    target = session.folder / "fp8"
    session.run(
        "convert to fp8", ["convert", str(source), str(target), "--dtype", "fp8", "--part", "transformer"]
    )
    distances: list[float] = []
    with safe_open(source, "pt") as exact, safe_open(target / "transformer.safetensors", "pt") as rounded:
        names = set(rounded.keys())
        for name in names:
            if f"{name}_scale" in names and COMPARED.search(name):
                value = exact.get_tensor(name).float()
                stored = rounded.get_tensor(name).float() * rounded.get_tensor(f"{name}_scale")
                distances.append(float(torch.linalg.norm(stored - value) / torch.linalg.norm(value)))
    shutil.rmtree(target)
    figures = {"matrices": len(distances), "largest": max(distances), "smallest": min(distances)}
    session.note("fp8 distance", figures)
    assert figures["largest"] <= 3e-2
