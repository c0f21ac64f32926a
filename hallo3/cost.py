"""What a run will take of disk, memory and time, before anything is loaded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .journal.pace import Pace
from .segments import SegmentPlan
from .shapes import VideoShape

FLOAT = 4
PROGRAM = 700 << 20
"""Bytes that Python, torch and the libraries take by themselves."""
FRAMES_AT_ONCE = 4
"""How often a segment's frames are in memory at the same time."""
BITS_A_PIXEL = {"h264": 0.5, "h265": 0.35, "prores": 4.0, "ffv1": 10.0}
"""Of encoded video where no earlier run tells: talking heads at the default quality, rather too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
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


def cost_of(
    plan: SegmentPlan,
    shape: VideoShape,
    size: tuple[int, int],
    codec: str,
    *,
    weights: int,
    features: int,
    left: int | None = None,
    pixels: bool = False,
    pace: Pace | None = None,
) -> Cost:
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
    return Cost(
        segments=len(plan),
        frames=plan.frames,
        job=2 * video + len(plan) * (motion + 4096) + plan.frames * features + kept,
        video=video,
        memory=PROGRAM + weights + segment + kept,
        render_seconds=None if pace is None else pace.seconds * todo,
        measured=pace is not None,
        grows=pixels,
    )


def check_disk(cost: Cost, folder: Path, already: int = 0) -> None:
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
            do="free some space, choose a folder on another disk, or make the video in parts",
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
