"""What a run will take of disk, memory and time, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import InputError
from ..geometry import VideoShape
from ..media.video import VideoEncoding
from ..segments import SegmentPlan
from ..settings import Settings
from ..storage.atomic import write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The size of a run. ``network_evaluations`` counts forward passes of the transformer, a branch each; at
    most so many where a step cache ``reuses`` some."""

    model: str
    segments: int
    frames: int
    seconds: float
    width: int
    height: int
    fps: int
    steps: int
    guidance_scale: float
    sampler: str
    network_evaluations: int
    attention: str
    reuses: bool

    def text(self) -> str:
        """The bill for people."""
        return (
            f"model     {self.model}\n"
            f"video     {self.frames} frames, {self.seconds:.2f} s at {self.fps} fps, "
            f"{self.width} x {self.height}\n"
            f"segments  {self.segments}\n"
            f"sampling  {self.steps} steps of {self.sampler}, guidance {self.guidance_scale:g}\n"
            f"network   {'at most ' * self.reuses}{self.network_evaluations} evaluations\n"
            f"attention {self.attention}"
        )


def summarize_run(
    model: str, plan: SegmentPlan, settings: Settings, width: int, height: int, attention: str
) -> RunSummary:
    """The bill of a planned run; ``attention`` is the backend chosen."""
    return RunSummary(
        model=model,
        segments=len(plan),
        frames=plan.frames,
        seconds=plan.frames / plan.config.fps,
        width=width,
        height=height,
        fps=plan.config.fps,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        sampler=settings.sampler,
        network_evaluations=len(plan) * settings.evaluations,
        attention=attention,
        reuses=settings.step_cache > 0,
    )


def as_dict(value: RunSummary) -> dict[str, object]:
    """The bill for programs; ``reuses`` is left out where nothing is."""
    return {name: found for name, found in asdict(value).items() if name != "reuses" or found}


FILE = "pace.json"
LARGEST = 1 << 20
MOST = 200
"""Kinds of run that are remembered; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Of a kind of run: seconds a segment, and bytes of its encoded piece a frame."""

    seconds: float
    frame_bytes: float


def read_throughput(jobs: Path, kind: str) -> Throughput | None:
    """What earlier runs of a kind took; None if there were none."""
    with suppress(TypeError, KeyError, ValueError, OverflowError):
        said = _known(jobs)[kind]
        pace = Throughput(float(said["seconds"]), float(said["frame_bytes"]))
        if 0 < pace.seconds < 1e7 and 0 < pace.frame_bytes < 1e9:
            return pace
    return None


def save_throughput(jobs: Path, kind: str, pace: Throughput) -> None:
    """Keep what a run took. Where it cannot be kept, the next plan knows less, and nothing else."""
    known = _known(jobs)
    known.pop(kind, None)
    known[kind] = {"seconds": pace.seconds, "frame_bytes": pace.frame_bytes}
    recent = dict(list(known.items())[-MOST:])
    with suppress(OSError):
        write_atomic(jobs / FILE, [json.dumps(recent).encode()])


def _known(jobs: Path) -> dict[str, Any]:
    try:
        with (jobs / FILE).open("rb") as file:
            found: object = json.loads(file.read(LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


FLOAT = 4
PROGRAM = 700 << 20
"""Bytes that Python, torch and the libraries take by themselves."""
FRAMES_AT_ONCE = 4
"""How often a segment's frames are in memory at the same time."""
BITS_A_PIXEL = {"h264": 0.5, "h265": 0.35, "prores": 4.0, "ffv1": 10.0}
"""Of encoded video where no earlier run tells: talking heads at the default quality, rather too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """What a run takes: ``job`` bytes on disk while the video is made, ``video`` bytes of the finished file,
    at most ``memory`` bytes of the computer's own; ``render_seconds`` as on this machine before, None if it
    has made no such video. ``measured`` says whether sizes are from earlier runs too, ``grows`` whether
    memory grows with the speech."""

    segments: int
    frames: int
    job: int
    video: int
    memory: int
    render_seconds: float | None
    measured: bool
    grows: bool

    @property
    def disk(self) -> int:
        """Bytes of all files at the moment when there are most."""
        return self.job + self.video

    def text(self) -> str:
        """For people, a line each."""
        source = "as on earlier runs" if self.measured else "estimated; no earlier run to go by"
        time = (
            "not known: no earlier run on this machine"
            if self.render_seconds is None
            else duration(self.render_seconds)
        )
        long = "for this speech" if self.grows else "however long the speech is"
        return (
            f"disk      {size(self.disk)} while it is made, {size(self.video)} then ({source})\n"
            f"memory    {size(self.memory)} of this computer's, {long}\n"
            f"time      {time}"
        )


def estimate_run(
    plan: SegmentPlan,
    shape: VideoShape,
    size: tuple[int, int],
    codec: str,
    *,
    weights: int,
    features: int,
    left: int | None = None,
    pixels: bool = False,
    pace: Throughput | None = None,
) -> RunEstimate:
    """The cost of a plan whose video is ``size`` (width, height); ``weights`` bytes are held in memory,
    ``features`` bytes kept a frame of speech. ``left`` segments are still to be done; ``pixels`` of all of
    them are kept."""
    width, height = size
    frame = BITS_A_PIXEL[codec] * width * height / 8 + 40 if pace is None else pace.frame_bytes
    video = int(plan.frames * (frame + 1000))
    motion = plan.config.motion_frames * 3 * shape.height * shape.width * FLOAT
    kept = plan.frames * 3 * shape.height * shape.width * FLOAT if pixels else 0
    segment = plan.config.frames * 3 * shape.height * shape.width * FLOAT * FRAMES_AT_ONCE
    todo = len(plan) if left is None else left
    return RunEstimate(
        segments=len(plan),
        frames=plan.frames,
        job=2 * video + len(plan) * (motion + 4096) + plan.frames * features + kept,
        video=video,
        memory=PROGRAM + weights + segment + kept,
        render_seconds=None if pace is None else pace.seconds * todo,
        measured=pace is not None,
        grows=pixels,
    )


def check_disk(cost: RunEstimate, folder: Path, already: int = 0) -> None:
    """Refuse a run for whose files ``folder`` has no room; ``already`` bytes are there. Raises
    ``InputError``."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = max(0, cost.disk - already)
    if needed > free:
        raise InputError(
            "The video does not fit on the disk.",
            found=f"{size(free)} free in {folder}",
            expected=f"{size(needed)} for {cost.frames:,} frames in {cost.segments:,} segments",
            fix="free some space, choose a folder on another disk, or make the video in parts",
        )


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 48:
        return f"{hours // 24} days" + (f" {hours % 24} h" if hours % 24 else "")
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def throughput_key(
    model: str,
    device: str,
    evaluations: int,
    size: tuple[int, int],
    encoding: VideoEncoding,
    cache: float = 0.0,
) -> str:
    """By what runs are known that take as long a segment; ``cache`` is the step cache's threshold."""
    work = f"{evaluations} evaluations {f'step cache {cache:g} ' if cache else ''}"
    return f"{model} {device} {work}{size[0]}x{size[1]} {encoding.facts()}"
