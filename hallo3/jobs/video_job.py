"""A job that becomes a video with sound: its segments are kept one by one, shown as they grow, joined at the
end."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ..errors import Hallo3Error, InputError, OutputError
from ..face.registry import SimilarityFunction, unknown_similarity
from ..media.canvas import Canvas, enlarge
from ..media.drift import Drift, measure_drift
from ..media.mux import (
    AI_COMMENT,
    GrowingVideo,
    Sound,
    decode_frames,
    encode_soundtrack,
    join_segments,
    open_soundtrack,
)
from ..media.paste_back import PasteBack
from ..media.video import VideoEncoding, encode_segment
from ..messages import logger
from ..noise import Noise, make_noise
from ..pipeline import Rendered, Renderer, render
from ..progress import ProgressCallback, no_progress
from ..quantization import MAY_DIFFER, choose_threads
from ..segments import Segment, SegmentPlan
from ..storage.files import finalize_file, temporary_path, write_error
from ..storage.hashing import hash_file
from .estimate import Throughput, save_throughput
from .job import (
    MADE_WITH,
    PARENT,
    THREADS,
    WAYS,
    Job,
    JobManifest,
    incomplete_error,
    inherit_segments,
    job_folder,
    open_job,
    own_files,
    read_manifest,
)
from .redo import NO_REDO, Redo
from .segment_file import MOTION, PIECE, PIXELS, SegmentFormat, SegmentRecord

NUMERICS = 1
"""Version of this package's numbers. A job of another version is not resumed: its frames would differ."""
SOUND_FILENAME, SOUND_DIGITS, MAX_SOUND_RATE = "sound.{}.mp4", 16, 1 << 17
"""A job's soundtrack is named after its content; it has fewer bytes per second."""


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """A finished segment by its place in the video; ``pixels`` [F, 3, H, W] if it was just rendered."""

    index: int
    record: SegmentRecord
    pixels: Tensor | None = None


def derive_seed(seed: int, take: int, parent_state: str) -> int:
    """The seed of a take, and of a video that continues another: the run's own seed for neither."""
    if not take and not parent_state:
        return seed
    digest = blake2b(f"{seed}|{take}|{parent_state}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(slots=True, kw_only=True)
class JobStore(ABC):
    """The segments of an open ``job``, as the store that ``pipeline.render`` writes to.

    ``plan`` has the job's last segments; those before are inherited from ``parent``, the open job of the
    video that this one continues. ``machine`` is what computes here (``quantization.describe_machine``);
    ``clock`` counts the seconds of work: it may stop while weights are read. ``ways`` describes the memory
    plan, attention and kernels in force, by their entries; they may change the last bits of frames.
    """

    job: Job
    plan: SegmentPlan
    seed: int
    machine: str = ""
    parent: Job | None = None
    redo: Redo = NO_REDO
    keep_pixels: bool = False
    clock: Callable[[], float] = time.monotonic
    ways: Callable[[], Mapping[str, str]] = dict[str, str]
    _first: int = 0
    _motion: Tensor | None = None
    _started: float = 0.0

    @abstractmethod
    def encode(self, pixels: Tensor) -> bytes:
        """Frames on the whole canvas [F, 3, H, W] in 0..1 -> an encoded segment."""

    @abstractmethod
    def measure(self, pixels: Tensor, before: Tensor | None) -> Mapping[str, float]:
        """Numbers to keep of a segment's frames; ``before`` is the last frame [3, H, W] of the segment
        before."""

    @property
    def inherited(self) -> int:
        """Segments taken over from the parent."""
        return self.job.manifest.segments - len(self.plan)

    @property
    def missing(self) -> list[int]:
        """Segments to render, by their place in the whole video, if all come out as before."""
        return [n for n in range(self.job.manifest.segments) if self._finished(n) is None]

    def seed_for(self, segment: Segment) -> int:
        """The seed of a segment's take."""
        take = self._take(self.inherited + segment.index)
        return derive_seed(self.seed, take, parent_state(self.parent))

    def load(self, segment: Segment) -> SegmentResult | None:
        index = self.inherited + segment.index
        record = self._finished(index)
        return None if record is None else SegmentResult(index, record)

    def motion_before(self, segment: Segment) -> Tensor | None:
        index = self.inherited + segment.index
        self._motion = self.job.motion(index - 1) if index else None
        return self._motion

    def noise(self, segment: Segment) -> Noise:
        self._started = self.clock()
        return make_noise(self.seed_for(segment))

    def save(self, segment: Segment, rendered: Rendered) -> SegmentResult:
        """Raises ``Hallo3Error`` for frames that are not finite, before they are kept; ``OutputError``."""
        index, motion = self.inherited + segment.index, rendered.motion.float()
        if not (bool(rendered.pixels.isfinite().all()) and bool(motion.isfinite().all())):
            raise Hallo3Error(
                "Sampling produced NaN values.",
                found=f"NaN or infinity in segment {index + 1}; it is not kept, earlier segments are",
                expected="finite frames",
                fix="use another data type (bf16 or fp32 instead of fp16), other weights, or no LoRA",
            )
        before = None if self._motion is None else (self._motion[0, :, -1] + 1) / 2
        self._first = self.job.manifest.frames - self.plan.frames + self.plan.first(segment.index)
        encoded = self.encode(rendered.pixels)
        made = [each for each in self._noted(MADE_WITH).split("; ") if each != self.machine]
        for entry, text in (MADE_WITH, "; ".join([*made, self.machine])), *self.ways().items():
            if text and text != self._noted(entry):  # a segment's file says it too
                self.job.note(entry, text)
        tensors = {
            PIECE: torch.frombuffer(bytearray(encoded), dtype=torch.uint8),
            MOTION: motion,
            PIXELS: rendered.pixels,
        }
        seconds, measures = self.clock() - self._started, self.measure(rendered.pixels, before)
        take, keep = self._take(index), self.keep_pixels
        record = self.job.commit(
            index, tensors, take=take, seconds=seconds, measures=measures, keep_pixels=keep
        )
        self._motion = motion
        return SegmentResult(index, record, rendered.pixels)

    def _noted(self, entry: str) -> str:
        return self.job.manifest.what.get(entry, "")

    def inherited_results(self) -> Iterator[SegmentResult]:
        """Raises ``InputError`` if a segment of the parent is missing."""
        for index in range(self.inherited):
            record = self.job.finished(index)
            if record is None:
                raise incomplete_error(f"its segment {index + 1} is missing or damaged")
            yield SegmentResult(index, record)

    def _finished(self, index: int) -> SegmentRecord | None:
        record, own = self.job.finished(index), index - self.inherited
        if record is not None and own >= 0:
            new = self.plan[own].keep
            redone = self.redo.includes(index) and record.take != self.redo.take
            return None if redone or record.frames != new.stop - new.start else record
        return record

    def _take(self, index: int) -> int:
        return self.redo.take if self.redo.includes(index) else self.job.take(index)


@dataclass(slots=True, kw_only=True)
class VideoJob(JobStore):
    """A job in the folder ``jobs`` whose segments are a video with sound.

    The video shows frames of ``canvas`` ``enlarge`` times as large, or pasted back, with the sound of
    ``recording``, a file's ``track``. ``comment`` is in the file's metadata. ``check_recording`` raises if
    the recording is not the one that the job is known by any more.
    """

    jobs: Path
    canvas: Canvas
    encoding: VideoEncoding
    recording: Path | Sound
    track: int | None = None
    enlarge: int = 1
    paste_back: PasteBack | None = None
    comment: str = AI_COMMENT
    similarity: SimilarityFunction = unknown_similarity
    check_recording: Callable[[], None] = lambda: None

    def encode(self, pixels: Tensor) -> bytes:
        numbers = self.encoding.shown(self._first, len(pixels), self.plan.config.fps)
        shown = (self.show(pixels[n : n + 1])[0] for n in numbers)
        return encode_segment(shown, self.encoding, self.job.form.rate)

    def measure(self, pixels: Tensor, before: Tensor | None) -> Mapping[str, float]:
        canvas = self.canvas
        frames, portrait = canvas.uncrop(pixels), (canvas.uncrop(canvas.pixels[0, :, 0]) + 1) / 2
        drift = measure_drift(frames, portrait, None if before is None else canvas.uncrop(before))
        return replace(drift, face=self.similarity(frames[0])).as_dict()

    def render(
        self,
        renderer: Renderer,
        *,
        motion_drop: float,
        so_far: Path,
        throughput_key: str,
        stage: Callable[[int, str], object] = no_progress,
    ) -> Generator[SegmentResult]:
        """Every segment in order, rendered where it is missing, and safe on disk when it is yielded.

        The video of the finished segments grows at ``so_far``. The median time per segment is kept for later
        estimates of runs with the same ``throughput_key``; of several segments without the first, which
        loads and warms up. ``stage`` is called as of ``pipeline.render``, with the segment's place.
        """
        seconds, encoded_bytes, frames = list[float](), 0, 0
        for entry, now in self.ways().items() if self.missing else ():
            if (before := self._noted(entry)) not in ("", now):
                logger.warning(f"{WAYS[entry]} otherwise than before ({before}): {now}; {MAY_DIFFER}")
        own = render(
            self.canvas.pixels,
            self.plan,
            renderer,
            self,
            motion_drop=motion_drop,
            stage=lambda segment, name: stage(self.inherited + segment.index, name),
        )
        try:
            with GrowingVideo(so_far, self.soundtrack(), self.comment) as video:
                for result in chain(self.inherited_results(), own):
                    piece = self.job.piece(result.index)
                    video.append(piece)
                    if result.pixels is not None:
                        seconds.append(result.record.seconds)
                        encoded_bytes, frames = encoded_bytes + len(piece), frames + result.record.frames
                    yield result
        finally:
            if seconds:
                median_seconds = median(seconds[1:] or seconds)
                save_throughput(self.jobs, throughput_key, Throughput(median_seconds, encoded_bytes / frames))

    def join(self, path: Path) -> None:
        """Write the finished video. Raises ``OutputError``."""
        pieces, name = map(self.job.piece, range(self.job.manifest.segments)), self.job.folder.name
        join_segments(pieces, self.soundtrack(), path, self.comment, f"{name}{path.suffix}")
        self.job.finish(hash_file(path))

    def frames(self, index: int) -> Tensor:
        """A finished segment's frames [F, 3, h, w] in 0..1 as the video shows them: the kept ones, else
        decoded from the encoded segment."""
        if (pixels := self.job.pixels(index)) is None:
            return decode_frames(self.job.piece(index))
        return self.show(pixels)

    def show(self, pixels: Tensor) -> Tensor:
        """Frames of the canvas [F, 3, H, W] in 0..1 -> as the video shows them [F, 3, h, w]."""
        frames = self.canvas.uncrop(pixels)
        return enlarge(frames, self.enlarge) if self.paste_back is None else self.paste_back.paste(frames)

    @property
    def seconds_per_segment(self) -> float:
        """Of all but the last; the mean where they differ."""
        config, whole = self.plan.config, self.job.manifest
        frames = whole.frames / whole.segments if self.plan.seams else config.new_frames
        return frames / config.fps

    def drifts(self) -> list[Drift]:
        """Measures of the finished segments."""
        return [Drift.from_dict(record.measures) for record in self.job.records if record is not None]

    def soundtrack(self) -> Path:
        """The sound of the whole video, encoded once: the parent's, then the recording's own."""
        existing = _find_soundtrack(self.job)
        if existing is not None:
            return existing
        fps, parts = self.plan.config.fps, list[tuple[Path | Sound, Fraction]]()
        if self.parent is not None:
            before = _find_soundtrack(self.parent)
            if before is None:
                raise OutputError(
                    "The sound of the video to continue is missing.",
                    found=f"job {self.parent.folder.name} without it",
                    expected="a job's folder as it was left",
                    fix="render that video again first",
                )
            parts.append((before, Fraction(self.parent.manifest.frames, fps)))
        parts.append((self.recording, Fraction(self.plan.frames, fps)))
        fresh = temporary_path(self.job.folder / SOUND_FILENAME.format("new"))
        try:
            encode_soundtrack(parts, fresh, self.track)
            self.check_recording()
            path = self.job.folder / SOUND_FILENAME.format(hash_file(fresh)[:SOUND_DIGITS])
            finalize_file(fresh, path)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise write_error("The video's sound cannot be written.", fresh, error) from error
        return path


def parent_state(parent: Job | None) -> str:
    """Hash of the continued video's segments; empty if the video continues none."""
    return parent.state if parent else ""


def create_manifest(
    key: str, plan: SegmentPlan, headers: str, info: Mapping[str, str], parent: Job | None
) -> JobManifest:
    """The manifest of a job, which may continue another. Raises ``InputError`` if that one is not whole."""
    before = parent.manifest if parent else None
    if parent is not None:
        records = [parent.finished(index) for index in range(parent.manifest.segments)]
        if None in records:
            raise incomplete_error(f"its segment {records.index(None) + 1} is missing or damaged")
        if sum(record.frames for record in records if record) != parent.manifest.frames:
            raise incomplete_error("segments of other lengths than when it was made")
    return JobManifest(
        key=key,
        root=before.root if before else key,
        segments=len(plan) + (before.segments if before else 0),
        frames=plan.frames + (before.frames if before else 0),
        headers=headers,
        what={**info, **({PARENT: parent.folder.name} if parent else {})},
    )


def open_parent(
    jobs: Path, manifest: JobManifest, form: SegmentFormat, progress: ProgressCallback = no_progress
) -> AbstractContextManager[Job]:
    """Open the job of a video to continue. Raises ``InputError`` if segments of this form cannot be joined
    with its own."""
    if manifest.headers != form.headers:
        raise InputError(
            "The video to continue has another format.",
            found="another size, codec, quality or pixel format",
            expected="those of the video to continue",
            fix="use the same portrait and the same options as for that video",
        )
    return open_job(jobs, manifest, form, progress)


@contextmanager
def open_video_job(
    jobs: Path,
    manifest: JobManifest,
    form: SegmentFormat,
    parent: Job | None,
    machine: str,
    warn: Callable[[str], object],
    progress: ProgressCallback = no_progress,
) -> Generator[Job]:
    """A job with the segments of its ``parent``, open while the block lasts, in which torch computes with as
    many threads as when the job began: how a sum is split decides its last bit.

    ``warn`` gets a sentence if another ``machine`` began the video. Raises as ``open_job`` does.
    """
    known = read_manifest(job_folder(jobs, manifest.key))
    known = known if known is not None and known.key == manifest.key else None
    before = torch.get_num_threads()
    threads = choose_threads(known.what.get(THREADS, "") if known else "", warn)
    begun = known or (parent.manifest if parent else None)
    made = begun.what.get(MADE_WITH, machine) if begun else machine
    last = made.split("; ")[-1]
    if last not in (machine, machine.split(",")[0]):  # version 0.1.0 noted torch only
        warn(f"this video was begun with {last}; here it is {machine}: {MAY_DIFFER}")
    info = {**manifest.what, MADE_WITH: made, THREADS: str(threads)}
    info |= {entry: known.what[entry] for entry in WAYS if known and entry in known.what}
    with open_job(jobs, replace(manifest, what=info), form, progress) as job:
        if parent is not None:
            inherit_segments(job, parent)
        torch.set_num_threads(threads)
        try:
            yield job
        finally:
            torch.set_num_threads(before)


def _find_soundtrack(job: Job) -> Path | None:
    """A job's soundtrack, if it is as it was written: its name has the hash of its content."""
    seconds = Fraction(job.manifest.frames, job.form.config.fps)
    with suppress(OSError):
        for path, status in own_files(job.folder).items():
            digits = re.fullmatch(SOUND_FILENAME.format("(.*)"), path.name)
            if digits is None:
                continue
            with suppress(OSError, OutputError):
                small = status.st_size <= (seconds + 60) * MAX_SOUND_RATE
                if small and hash_file(path, follow_links=False)[:SOUND_DIGITS] == digits[1]:
                    with open_soundtrack(path) as track:
                        if abs((track.duration or 0) * track.time_base - seconds) < 1:
                            return path
            path.unlink()
    return None
