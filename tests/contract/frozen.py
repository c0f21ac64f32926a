"""What a change of the code must leave as it is: videos, job keys, plans and options, recorded as files.

``python -m contract.frozen`` in ``tests`` records them again; do that only where a number is meant to change.
Frames and keys are compared to the last bit where processor, torch and FFmpeg are those of the record, frames
within what another processor changes elsewhere (facts 17).
"""

import contextlib
import io
import json
import platform
import re
import tempfile
from collections.abc import Iterator, Set
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from hallo3.cli.main import main
from support.audio_samples import tone, write_wav

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[1] / "samples"
RECORD, FRAMES, KEPT = HERE / "frozen.json", HERE / "frozen_frames.safetensors", HERE / "kept"
"""``KEPT`` has an identity file and a job folder, two of four segments, as version 0.1.0 wrote them."""
COMMANDS = (
    "animate",
    "convert",
    "demo",
    "doctor",
    "download",
    "inspect",
    "jobs",
    "tiny",
    "ui",
    "verify",
)
STEPS = ("--steps", "4")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nano": ("nano", ()),
    "nano ddim": ("nano", ("--sampler", "ddim")),
    "nano dpmpp_2m": ("nano", ("--sampler", "dpmpp_2m")),
    "nano unguided": ("nano", ("--guidance", "1")),
    "nano prompt seed": ("nano", ("--prompt", "a person talks", "--seed", "7")),
    "nano low memory": ("nano", ("--low-memory",)),
    "nano offload": ("nano", ("--offload", "blocks")),
    "nano disk": ("nano", ("--offload", "disk", "--prompt", "a person talks")),
    "nano posterior": ("nano", ("--posterior", "sample")),
    "nano guidance-middle": ("nano", ("--steps", "8", "--approximate", "guidance-middle")),
    "nano step-cache": ("nano", ("--steps", "12", "--approximate", "step-cache")),
    "nano bf16": ("nano", ("--dtype", "bf16")),
    "nano fp8": ("nano", ("--dtype", "fp8")),
    "nano evened muted": ("nano", ("--level", "evened", "--silence", "muted")),
    "nano paste back": ("nano", ("--framing", "face", "--face-box", "30,20,60,60", "--paste-back")),
    "tiny": ("tiny", STEPS),
    "tiny ddim": ("tiny", (*STEPS, "--sampler", "ddim")),
    "tiny dpmpp_2m": ("tiny", (*STEPS, "--sampler", "dpmpp_2m")),
    "built-in": ("built-in", ("--prompt", "A person talks to the camera.")),
    "built-in dpmpp_2m_sde": ("built-in", (*STEPS, "--sampler", "dpmpp_2m_sde", "--guidance", "3.5")),
    "built-in dpmpp_2m": ("built-in", (*STEPS, "--sampler", "dpmpp_2m")),
    "built-in paste back": ("built-in", ("--face-box", "40,30,220,230", "--framing", "face", "--paste-back")),
}
LONG = {"tiny ddim", "tiny dpmpp_2m", "built-in dpmpp_2m_sde", "built-in dpmpp_2m"}
"""Runs that only ``make soak`` repeats: the small sets run with these samplers, too."""
PLANS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "step cache": ("--steps", "20", "--approximate", "step-cache", "--enlarge", "2"),
    "6 GB": ("--vram", "6"),
}
FOUR = "four segments"
SIDE = 64
"""A run's first and last frames are recorded as they are, up to about this many pixels per side."""


def machine() -> dict[str, str]:
    """What decides the last bits of a frame, and the bytes that an encoder writes."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = (*re.findall(r"model name\s*:\s*(.+)", about), platform.processor())
    processor = f"{platform.machine()} {names[0]}"
    return {"processor": processor, "torch": torch.__version__, "av": av.__version__}


class Bench:
    """Random sets, a picture and a sound in ``folder``, and commands that run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for size in ("nano", "tiny"):
            self._main("tiny", folder / size, "--seed", "7", "--size", size)
        picture = np.random.default_rng(0).integers(0, 255, (80, 104, 3), np.uint8)
        Image.fromarray(picture).save(folder / "p.png")
        write_wav(folder / "long.wav", tone(16000, 2.2), 16000)
        write_wav(folder / "short.wav", tone(16000, 0.7), 16000)

    def animate(self, name: str, model: str, *flags: str, speech: str = "") -> Path:
        """The video of a run, lossless."""
        portrait = SAMPLES / "portrait.png" if model == "built-in" else self.folder / "p.png"
        who = () if "--identity" in flags else ("--portrait", portrait)
        sound = self.folder / (speech or ("short.wav" if model == "nano" else "long.wav"))
        video, place = self.folder / name / "v.mkv", model if model == "built-in" else self.folder / model
        video.parent.mkdir(exist_ok=True)
        words = *who, "--speech", sound, "--model", place, "--codec", "ffv1", "-o", video, *flags
        self._main("animate", *words)
        return video

    def plan(self, *flags: str) -> dict[str, Any]:
        words = "--portrait", SAMPLES / "portrait.png", "--speech", self.folder / "long.wav"
        with contextlib.redirect_stdout(io.StringIO()) as out:
            self._main("animate", *words, "--plan", "--json", *flags)
        plan: dict[str, Any] = json.loads(out.getvalue())
        plan.get("vram", {}).pop("read_rate", None)
        for stage in plan.get("vram", {}).get("stages", ()):
            del stage["says"]  # for people
        return plan

    def _main(self, *words: object) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = main([str(word) for word in words])
        assert code == 0, f"{words}: {err.getvalue()}"


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def job_of(video: Path) -> str:
    """The name of the newest job beside a video: the beginning of its key."""
    folders = [f for f in (video.parent / "hallo3_jobs").iterdir() if f.is_dir()]
    return max(folders, key=lambda folder: folder.stat().st_mtime_ns).name


def shown(frames: np.ndarray) -> np.ndarray:
    every = -(-max(frames.shape[1:3]) // SIDE)
    return np.ascontiguousarray(frames[[0, -1], ::every, ::every])


def facts(frames: np.ndarray, **more: str) -> dict[str, str]:
    return {"frames": sha256(frames.tobytes()).hexdigest(), **more}


def runs(bench: Bench, skipped: Set[str] = frozenset()) -> Iterator[tuple[str, dict[str, str], np.ndarray]]:
    """(name, facts, frames) of every run, and of jobs that are resumed, redone and continued."""
    for name, (model, flags) in RUNS.items():
        if name in skipped:
            continue
        video = bench.animate(name, model, *flags)
        yield name, facts(found := frames_of(video), job=job_of(video)), found
    long = bench.animate(FOUR, "nano", speech="long.wav")
    whole = frames_of(long)
    yield FOUR, facts(whole, job=job_of(long)), whole
    for path in (long.parent / "hallo3_jobs" / job_of(long) / "segments").glob("*[23].safetensors"):
        path.unlink()
    resumed = frames_of(bench.animate(FOUR, "nano", speech="long.wav"))
    assert np.array_equal(resumed, whole)
    redone = frames_of(bench.animate(FOUR, "nano", "--redo", "2-3", "--take", "5", speech="long.wav"))
    yield "redone", facts(redone), redone
    more = bench.animate(FOUR, "nano", "--continue-from", str(long), "--seed", "3", speech="short.wav")
    yield "continued", facts(found := frames_of(more), job=job_of(more)), found
    identity = bench.folder / "i.safetensors"
    one = bench.animate("saved", "nano", "--save-identity", str(identity), "--framing", "original")
    two = bench.animate("from identity", "nano", "--identity", str(identity))
    assert np.array_equal(frames_of(one), frames_of(two))
    yield "from identity", facts(found := frames_of(two), job=job_of(two)), found


def options() -> dict[str, list[str]]:
    """Every command's options with the words they take, without their help."""
    found: dict[str, list[str]] = {}
    for command in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            main([command, "--help"])
        usage = out.getvalue().split("\n\n")[0].partition(f"hallo3 {command}")[2]
        found[command] = sorted(re.findall(r"\[.*?\]|\S+", " ".join(usage.split()).replace("[-h]", "")))
    return found


def record() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        bench, pictures, recorded = Bench(Path(place)), dict[str, np.ndarray](), dict[str, Any]()
        for name, found, frames in runs(bench):
            recorded[name], pictures[name] = found, shown(frames)
        plans = {name: bench.plan(*flags) for name, flags in PLANS.items()}
    said = {"machine": machine(), "runs": recorded, "plans": plans, "options": options()}
    RECORD.write_text(json.dumps(said, indent=1) + "\n")
    save_file(pictures, FRAMES)


if __name__ == "__main__":
    record()
