"""The released files at their true size, with made-up values, through every command of the README; memory and
reading are measured. An hour, and 90 GB of disk or 50: then the networks go one after the other. Linux.

    pytest -m soak -s tests/full_size
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
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
from soak.machine import keep
from support.original_checkpoints import to_ours

pytestmark = [pytest.mark.soak, pytest.mark.any_message]
WHOLE_GB, IN_TURN_GB = 90, 52
NETWORKS = {
    "transformer": (keymaps.TRANSFORMER, keymaps.TRANSFORMER_PREFIX),
    "reference": (keymaps.REFERENCE, keymaps.REFERENCE_PREFIX),
}
COMPARED = re.compile(r"\.(0|21|41)\.")  # layers of a network whose every value is compared
MAX_CONVERT_GB, MAX_ANIMATE_GB, MAX_READ_GB, MAX_CPU_SECONDS = 0.5, 3.0, 30, 60
SPEECH_SECONDS = 0.3
GROUPS_GB = (8, 16)


class Session:
    """A user's folder with ``weights`` and ``ComfyUI/models``; every command's figures by name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.figures = folder, dict[str, Any]()
        self.download, self.models = folder / "weights", folder / "ComfyUI/models"
        for name in ("diffusion_models", "vae"):
            (self.models / name).mkdir(parents=True, exist_ok=True)
        self.portrait, self.speech = write_inputs(folder, SPEECH_SECONDS)

    def generate(self, what: str, write: Callable[[], object]) -> None:
        started = time.perf_counter()
        write()
        self.note(f"generate {what}", {"seconds": round(time.perf_counter() - started, 1)})

    def run(self, name: str, words: list[str], gigabytes: float = 0, note: Path | None = None) -> Run:
        """Run the command in the folder, in a memory control group of so many GB; its figures are kept."""
        group = limited_group(gigabytes) if gigabytes else None
        if gigabytes and group is None:
            print(f"NOT MEASURED: {name}, because no memory control group can be made here")
            pytest.skip("no memory control group can be made here")
        start = ["-m", "hallo3"]
        if note is not None:
            note.unlink(missing_ok=True)
            start = [str(REPOSITORY / "tests/full_size/first_step.py"), str(note)]
        path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
        log = self.folder / f"{re.sub(r'[^a-z0-9]+', '_', name)}.log"
        run = measure([*start, *words], group, log, cwd=self.folder, HOME=str(self.folder), PYTHONPATH=path)
        figures = run.figures | ({"before_first_step": json.loads(note.read_text())} if note else {})
        self.note(name, figures)
        assert run.code == 0, f"{name}: {run.output[-2000:]}\n{log.read_text()[-2000:]}"
        return run

    def note(self, name: str, figures: dict[str, Any]) -> None:
        self.figures[name] = figures
        print(name, json.dumps(figures), flush=True)

    def converted(self, part: str, precision: str = "bf16") -> Path:
        return output_path(self.models, part, precision)

    def animate(self, *flags: str) -> list[str]:
        faces = ["--faces", str(self.download / "face_analysis/models"), "--faces-unverified"]
        inputs = ["--portrait", "me.png", "--speech", "me.wav", "--prompt", "a person talks to the camera"]
        return ["animate", "--model", "ComfyUI/models", *inputs, *faces, *flags]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = Path(os.environ.get("HALLO3_FULL_SIZE") or tmp_path_factory.mktemp("full_size"))
    free = shutil.disk_usage(folder).free / 1e9
    if free < IN_TURN_GB:
        pytest.skip(
            f"{free:.0f} GB of disk are free, {IN_TURN_GB} are needed (HALLO3_FULL_SIZE: another folder)"
        )
    session = Session(folder)
    yield session
    keep("full_size.json", session.figures)
    for name in ("weights", "ComfyUI"):
        shutil.rmtree(folder / name, ignore_errors=True)


def compare(session: Session, part: str) -> None:
    """Every value of some layers of a converted network with what was written into the checkpoint."""
    keys, prefix = NETWORKS[part]
    compared = 0
    with safe_open(session.converted(part), "pt") as found:
        for name, tensor in networks(Sizes()).items():
            if name.startswith(prefix) and COMPARED.search(name):
                published = {name.removeprefix(prefix): made_up_tensor(name, tensor)}
                for ours, value in to_ours(keys, published).items():
                    assert torch.equal(found.get_tensor(ours), value), ours
                    compared += value.numel()
    assert compared > 2e8
    session.note(f"compare {part}", {"equal_values": compared})


def test_download_and_convert(session: Session) -> None:
    """As the README says where there is room; else network by network, each deleted when it is converted."""
    free = shutil.disk_usage(session.folder).free / 1e9
    if free >= WHOLE_GB:
        for part, write in WRITERS.items():
            session.generate(part, lambda write=write: write(session.download, Sizes()))
        session.run("convert", ["convert", "weights", "ComfyUI/models"])
        for part in NETWORKS:
            compare(session, part)
    else:
        print(
            f"{free:.0f} GB of disk are free, not {WHOLE_GB}: the networks are converted one after the other"
        )
        for part, (_, prefix) in NETWORKS.items():
            session.generate(part, lambda prefix=prefix: write_networks(session.download, Sizes(), prefix))
            session.run(f"convert {part}", ["convert", "weights", "ComfyUI/models", "--part", part])
            compare(session, part)
            shutil.rmtree(session.download)
        for part in ("text_encoder", "vae", "speech_encoder", "faces"):
            session.generate(part, lambda part=part: WRITERS[part](session.download, Sizes()))
        session.run("convert others", ["convert", "weights", "ComfyUI/models"])
    for name in ("hallo3", "t5-v1_1-xxl"):
        shutil.rmtree(session.download / name, ignore_errors=True)
    peaks = {name: each["peak_gb"] for name, each in session.figures.items() if name.startswith("convert")}
    assert max(peaks.values()) <= MAX_CONVERT_GB, peaks


def test_other_lines_of_the_readme(session: Session) -> None:
    for words in commands():
        if words[0] not in ("download", "convert"):
            words = [str(session.converted("transformer")) if word == "FILE" else word for word in words]
            session.run(
                f"README: {' '.join(words[:1])}", words + ["--faces-unverified"] * (words[0] == "animate")
            )


@pytest.mark.parametrize("gigabytes", GROUPS_GB)
def test_a_trial_in_little_memory(session: Session, gigabytes: float) -> None:
    note, video = session.folder / "first_step.json", session.folder / f"{gigabytes}.mp4"
    words = session.animate("--trial", "--offload", "disk", "-o", str(video))
    session.run(f"plan, {gigabytes} GB", [*words, "--plan"], gigabytes)
    session.run(f"animate, {gigabytes} GB", words, gigabytes, note)
    figures = session.figures[f"animate, {gigabytes} GB"]
    assert video.exists()
    assert figures["peak_anonymous_gb"] <= MAX_ANIMATE_GB
    before = figures["before_first_step"]
    assert max(before["read_gb"], before["disk_gb"]) <= MAX_READ_GB
    assert before["cpu_seconds"] <= MAX_CPU_SECONDS


def test_fp8_at_full_width(session: Session) -> None:
    source = session.converted("transformer")
    target = session.folder / "fp8"
    session.run("convert to fp8", ["convert", str(source), str(target), "--dtype", "fp8"])
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
