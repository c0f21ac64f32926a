"""A job whose segments become a video with sound: kept one by one, shown as it grows, joined at the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from .errors import InputError, OutputError
from .face.likeness import Likeness, nobody_can_tell
from .journal.about import HEADLINE, MADE_WITH, PARENT, About, read_about
from .journal.folders import folder_of
from .journal.job import Job
from .journal.key import content_of
from .journal.pace import Pace, remember
from .kept import NO_REDO, Draw, Kept, Redo, keep
from .media.canvas import Canvas, enlarged
from .media.drift import Drift, measure
from .media.encoding import Encoding, encode_piece
from .media.joined import growing, join
from .media.sound import Recording
from .media.soundtrack import encode_sound
from .media.surroundings import Surroundings
from .pipeline import first_motion
from .segments import SegmentPlan
from .storage.whole import adopt, unfinished, unwritable

SOUND, DIGITS = "sound.{}.mp4", 16
"""A job's sound is named after its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoJob:
    """An open ``job`` in the folder ``jobs``, and what its video is: frames of ``canvas``, ``enlarge`` times
    as large, with the sound of ``recording``. ``parent`` is the open job of the video that this one goes on
    from; ``mark`` has the file say that it was made by a machine; ``surroundings`` is what frames are pasted
    back into. ``unchanged`` raises if the recording is not what the job is known by any more."""

    jobs: Path
    job: Job
    plan: SegmentPlan
    canvas: Canvas
    encoding: Encoding
    recording: Path | Recording
    parent: Job | None = None
    enlarge: int = 1
    surroundings: Surroundings | None = None
    mark: bool = True
    unchanged: Callable[[], None] = lambda: None

    def to_do(self, redo: Redo = NO_REDO) -> list[int]:
        """Segments to be rendered, if all that are missing come out as they were."""
        found = [self.job.finished(index) for index in range(self.job.about.segments)]
        return [n for n, record in enumerate(found) if record is None or redo.wants(n, record)]

    def make(
        self,
        draw: Draw,
        so_far: Path,
        *,
        kind: str,
        redo: Redo = NO_REDO,
        likeness: Likeness = nobody_can_tell,
        pixels: bool = False,
    ) -> Generator[Kept]:
        """Every segment in order, rendered where it is missing, and safe when it is handed out. The video of
        those that are finished grows at ``so_far``. ``kind`` is the kind of run whose pace this tells."""
        seconds, sizes, frames = list[float](), 0, 0
        try:
            with growing(so_far, self.sound(), self.mark) as video:
                for kept in keep(
                    self.job,
                    self.plan,
                    first_motion(self.canvas.pixels, self.plan),
                    draw=draw,
                    press=self._press,
                    measure=lambda shown, before: self._measures(shown, before, likeness),
                    redo=redo,
                    pixels=pixels,
                ):
                    piece = self.job.piece(kept.index)
                    video.append(piece)
                    if kept.drawn:
                        seconds.append(kept.record.seconds)
                        sizes, frames = sizes + len(piece), frames + kept.record.frames
                    yield kept
        finally:
            if seconds:
                remember(self.jobs, kind, Pace(median(seconds), sizes / frames))

    def join(self, path: Path) -> None:
        """The finished video. Raises ``OutputError``."""
        pieces = (self.job.piece(index) for index in range(self.job.about.segments))
        join(pieces, self.sound(), path, self.mark, f"{self.job.folder.name}{path.suffix}")
        self.job.finish(content_of(path))

    def drifts(self) -> list[Drift]:
        """What was measured of each finished segment."""
        return [Drift.from_dict(record.measures) for record in self.job.records if record is not None]

    def sound(self) -> Path:
        """The recording's own sound, encoded once for the whole video, after that of the video before."""
        kept = sound_in(self.job.folder)
        if kept is not None:
            return kept
        fps, parts = self.plan.config.fps, list[tuple[Path | Recording, Fraction]]()
        if self.parent is not None:
            before = sound_in(self.parent.folder)
            if before is None:
                raise OutputError(
                    "The sound of the video to go on from is not there any more.",
                    found=f"job {self.parent.folder.name}",
                    expected="a job as it was left",
                    do="render that video again first",
                )
            parts.append((before, Fraction(self.parent.about.frames, fps)))
        parts.append((self.recording, Fraction(self.plan.frames, fps)))
        fresh = unfinished(self.job.folder / SOUND.format("new"))
        try:
            encode_sound(parts, fresh)
            self.unchanged()
            path = self.job.folder / SOUND.format(content_of(fresh)[:DIGITS])
            adopt(fresh, path)
        except OSError as error:
            raise unwritable(HEADLINE, fresh, error) from error
        return path

    def _press(self, pixels: Tensor) -> bytes:
        frames = self.canvas.uncrop(pixels)
        finished = (self.finished(frames[n : n + 1])[0] for n in range(len(frames)))
        return encode_piece(finished, self.encoding, self.plan.config.fps)

    def finished(self, frames: Tensor) -> Tensor:
        """Frames without bars [F, 3, h, w] in 0..1 as the video shows them."""
        if self.surroundings is not None:
            return self.surroundings.around(frames)
        return enlarged(frames, self.enlarge)

    def _measures(self, pixels: Tensor, before: Tensor | None, likeness: Likeness) -> dict[str, float]:
        canvas = self.canvas
        frames, portrait = canvas.uncrop(pixels), (canvas.uncrop(canvas.pixels[0, :, 0]) + 1) / 2
        drift = measure(frames, portrait, None if before is None else canvas.uncrop(before))
        return replace(drift, face=likeness(frames[0])).as_dict()


def state_of(parent: Job | None) -> str:
    """What a video goes on from, as far as it decides its frames; nothing for one that begins."""
    return parent.state if parent else ""


def job_about(
    key: str, plan: SegmentPlan, headers: str, what: Mapping[str, str], parent: Job | None
) -> About:
    """The description of a job, which may go on from another. Raises ``InputError`` for one whose pieces
    cannot be joined with its own."""
    before = parent.about if parent else None
    if before is not None and before.headers != headers:
        raise InputError(
            "The video to go on from is of another kind.",
            found="another size, codec, quality or kind of pixels",
            expected="those that it was made with",
            do="use the same portrait and the same choices as for that video",
        )
    return About(
        key=key,
        root=before.root if before else key,
        segments=len(plan) + (before.segments if before else 0),
        frames=plan.frames + (before.frames if before else 0),
        headers=headers,
        what={**what, MADE_WITH: made_with(), **({PARENT: parent.folder.name} if parent else {})},
    )


def made_with() -> str:
    """By what frames are computed here; elsewhere they may differ by rounding."""
    card = f" on {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"torch {torch.__version__}{card}"


def other_machine(jobs: Path, about: About) -> str:
    """What to say of a job that was begun with another torch or on another card; nothing of any other."""
    known = read_about(folder_of(jobs, about.key))
    before = known.what.get(MADE_WITH) if known else None
    if before in (None, made_with()):
        return ""
    return f"this video was begun with {before}; frames may differ by rounding from here on"


def sound_in(folder: Path) -> Path | None:
    """A job's sound, if it is there as it was written: its name tells its content."""
    for path in folder.glob(SOUND.format("*")):
        with suppress(OSError):
            if content_of(path)[:DIGITS] == path.name.split(".")[1]:
                return path
            path.unlink()
    return None
