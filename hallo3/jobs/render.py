"""A job whose segments become a video with sound: kept one by one, shown as it grows, joined at the end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ..errors import Hallo3Error, InputError, OutputError
from ..face.registry import SimilarityFunction, unknown_similarity
from ..media.audio import Recording
from ..media.canvas import Canvas, enlarge
from ..media.drift import Drift, measure_drift
from ..media.mux import encode_soundtrack, join_segments, open_growing_video
from ..media.paste_back import PasteBack
from ..media.video import VideoEncoding, encode_segment
from ..pipeline import Rendered, first_motion
from ..segments import Segment, SegmentPlan
from ..storage.atomic import finalize_file, temporary_path, write_error
from ..storage.hashing import hash_file
from .estimate import Throughput, save_throughput
from .job import HEADLINE, MADE_WITH, PARENT, Job, JobManifest, job_folder, read_manifest
from .segment_file import MOTION, PIECE, PIXELS, SegmentRecord

NUMERICS = 1
"""Of what this package computes. A job of another number is not gone on with: its frames would differ."""

Draw = Callable[[Segment, Tensor, int], Rendered]
"""(segment, motion frames [1, 3, m, H, W], take) -> the segment's frames."""
Press = Callable[[Tensor], bytes]
"""Frames [F, 3, H, W] in 0..1 on the whole canvas -> an encoded piece."""
Measure = Callable[[Tensor, Tensor | None], Mapping[str, float]]
"""(frames as for ``Press``, the last frame before them [3, H, W] or None) -> numbers worth keeping."""


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """A segment that is safe: its place in the whole video, what was noted of it, whether it was ``drawn``
    just now, and its ``pixels`` if they were."""

    index: int
    record: SegmentRecord
    drawn: bool
    pixels: Tensor | None


@dataclass(frozen=True, slots=True)
class Redo:
    """Segments ``first`` to ``last``, counted from 1 as people do, are to be the take of that number."""

    first: int
    last: int
    take: int

    def wants(self, index: int, record: SegmentRecord) -> bool:
        """Whether a finished segment (counted from 0) is to be rendered again."""
        return self.first <= index + 1 <= self.last and record.take != self.take

    def take_of(self, index: int, before: int) -> int:
        """Which take a segment that was take ``before`` is when it is rendered."""
        return self.take if self.first <= index + 1 <= self.last else before


NO_REDO = Redo(1, 0, 0)


def parse_redo(text: str, take: int, segments: int, inherited: int = 0) -> Redo:
    """``14-17``, ``14`` or ``14-`` (to the end), counted from 1; nothing for an empty text.

    Raises ``InputError`` for anything else, and for segments that the video does not have, or has
    ``inherited`` from the one that it goes on from.
    """
    if not text.strip():
        return NO_REDO
    found = re.fullmatch(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?)?\s*", text)
    first = int(found[1]) if found else 0
    last = (int(found[3]) if found[3] else segments if found[2] else first) if found else 0
    if not inherited < first <= last <= segments or take < 1:
        there = f"{inherited + 1} to {segments}"
        raise InputError(
            "These segments cannot be done again.",
            found=f"{text!r}, take {take}",
            expected=f"one segment, or a stretch such as 2-3, of {there}; a take from 1 on",
            fix="choose segments that the video has",
        )
    return Redo(first, last, take)


def derive_seed(seed: int, take: int, after: str) -> int:
    """The seed of a take, and of what goes on ``after`` another video: the run's own for the first take."""
    if not take and not after:
        return seed
    return int.from_bytes(blake2b(f"{seed}|{take}|{after}".encode(), digest_size=8).digest(), "little")


def keep(
    job: Job,
    plan: SegmentPlan,
    first: Tensor,
    *,
    draw: Draw,
    press: Press,
    measure: Measure,
    redo: Redo = NO_REDO,
    pixels: bool = False,
) -> Iterator[SegmentResult]:
    """Every segment of the job in order, those that are missing rendered and kept on the way.

    ``first`` are the motion frames of the job's first segment. The plan's segments are the job's last ones;
    those before were taken over from the video it goes on from. ``pixels`` keeps the frames too.

    Raises ``Hallo3Error`` for frames that are not numbers, before they are kept; ``OutputError``.
    """
    before = job.about.segments - len(plan)
    motion: Tensor | None = first
    for index in range(job.about.segments):
        record = job.finished(index)
        if record is not None and (index < before or not redo.wants(index, record)):
            motion = None  # it is in the file; read only if the next segment needs it
            yield SegmentResult(index, record, False, None)
            continue
        if index < before:
            raise _lost(index)
        if motion is None:
            motion = job.motion(index - 1)
        begun, segment, take = time.monotonic(), plan[index - before], redo.take_of(index, job.take(index))
        last = (motion[0, :, -1] + 1) / 2 if index else None
        drawn = draw(segment, motion, take)
        _check_finite(drawn, index)
        tensors = {
            PIECE: _bytes(press(drawn.pixels)),
            MOTION: drawn.motion.float(),
            PIXELS: drawn.pixels,
        }
        measures = measure(drawn.pixels, last)
        record = job.commit(
            index,
            tensors,
            take=take,
            seconds=time.monotonic() - begun,
            measures=measures,
            pixels=pixels,
        )
        motion = drawn.motion.float()
        yield SegmentResult(index, record, True, drawn.pixels)


def _check_finite(drawn: Rendered, index: int) -> None:
    if not (bool(drawn.pixels.isfinite().all()) and bool(drawn.motion.isfinite().all())):
        raise Hallo3Error(
            "Sampling gave values that are not numbers.",
            found=f"NaN or infinity in segment {index + 1}; it is not kept, those before it are",
            expected="finite frames",
            fix="use another number type (bf16 or fp32 in place of fp16), other weights, or no LoRA",
        )


def _lost(index: int) -> InputError:
    return InputError(
        "The video to go on from is not whole any more.",
        found=f"its segment {index + 1} is missing or damaged",
        expected="a finished video's job",
        fix="render that one again first",
    )


def _bytes(piece: bytes) -> Tensor:
    return torch.frombuffer(bytearray(piece), dtype=torch.uint8)


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
    encoding: VideoEncoding
    recording: Path | Recording
    parent: Job | None = None
    enlarge: int = 1
    surroundings: PasteBack | None = None
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
        likeness: SimilarityFunction = unknown_similarity,
        pixels: bool = False,
    ) -> Generator[SegmentResult]:
        """Every segment in order, rendered where it is missing, and safe when it is handed out. The video of
        those that are finished grows at ``so_far``. ``kind`` is the kind of run whose pace this tells."""
        seconds, sizes, frames = list[float](), 0, 0
        try:
            with open_growing_video(so_far, self.sound(), self.mark) as video:
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
                save_throughput(self.jobs, kind, Throughput(median(seconds), sizes / frames))

    def join(self, path: Path) -> None:
        """The finished video. Raises ``OutputError``."""
        pieces = (self.job.piece(index) for index in range(self.job.about.segments))
        join_segments(pieces, self.sound(), path, self.mark, f"{self.job.folder.name}{path.suffix}")
        self.job.finish(hash_file(path))

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
                    fix="render that video again first",
                )
            parts.append((before, Fraction(self.parent.about.frames, fps)))
        parts.append((self.recording, Fraction(self.plan.frames, fps)))
        fresh = temporary_path(self.job.folder / SOUND.format("new"))
        try:
            encode_soundtrack(parts, fresh)
            self.unchanged()
            path = self.job.folder / SOUND.format(hash_file(fresh)[:DIGITS])
            finalize_file(fresh, path)
        except OSError as error:
            raise write_error(HEADLINE, fresh, error) from error
        return path

    def _press(self, pixels: Tensor) -> bytes:
        frames = self.canvas.uncrop(pixels)
        finished = (self.finished(frames[n : n + 1])[0] for n in range(len(frames)))
        return encode_segment(finished, self.encoding, self.plan.config.fps)

    def finished(self, frames: Tensor) -> Tensor:
        """Frames without bars [F, 3, h, w] in 0..1 as the video shows them."""
        if self.surroundings is not None:
            return self.surroundings.around(frames)
        return enlarge(frames, self.enlarge)

    def _measures(
        self, pixels: Tensor, before: Tensor | None, likeness: SimilarityFunction
    ) -> dict[str, float]:
        canvas = self.canvas
        frames, portrait = canvas.uncrop(pixels), (canvas.uncrop(canvas.pixels[0, :, 0]) + 1) / 2
        drift = measure_drift(frames, portrait, None if before is None else canvas.uncrop(before))
        return replace(drift, face=likeness(frames[0])).as_dict()


def parent_state(parent: Job | None) -> str:
    """What a video goes on from, as far as it decides its frames; nothing for one that begins."""
    return parent.state if parent else ""


def create_manifest(
    key: str, plan: SegmentPlan, headers: str, what: Mapping[str, str], parent: Job | None
) -> JobManifest:
    """The description of a job, which may go on from another. Raises ``InputError`` for one whose pieces
    cannot be joined with its own."""
    before = parent.about if parent else None
    if before is not None and before.headers != headers:
        raise InputError(
            "The video to go on from is of another kind.",
            found="another size, codec, quality or kind of pixels",
            expected="those that it was made with",
            fix="use the same portrait and the same choices as for that video",
        )
    return JobManifest(
        key=key,
        root=before.root if before else key,
        segments=len(plan) + (before.segments if before else 0),
        frames=plan.frames + (before.frames if before else 0),
        headers=headers,
        what={**what, MADE_WITH: describe_machine(), **({PARENT: parent.folder.name} if parent else {})},
    )


def describe_machine() -> str:
    """By what frames are computed here; elsewhere they may differ by rounding."""
    card = f" on {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"torch {torch.__version__}{card}"


def machine_warning(jobs: Path, about: JobManifest) -> str:
    """What to say of a job that was begun with another torch or on another card; nothing of any other."""
    known = read_manifest(job_folder(jobs, about.key))
    before = known.what.get(MADE_WITH) if known else None
    if before in (None, describe_machine()):
        return ""
    return f"this video was begun with {before}; frames may differ by rounding from here on"


def sound_in(folder: Path) -> Path | None:
    """A job's sound, if it is there as it was written: its name tells its content."""
    for path in folder.glob(SOUND.format("*")):
        with suppress(OSError):
            if hash_file(path)[:DIGITS] == path.name.split(".")[1]:
                return path
            path.unlink()
    return None
