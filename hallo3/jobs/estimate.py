"""What a run takes of disk, memory and time, estimated before anything is loaded; and what earlier runs
took."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from ..checkpoints.verify import examined_path
from ..config import Hallo3Config
from ..errors import InputError
from ..geometry import VideoShape
from ..media.video import VideoEncoding
from ..quantization import device_name
from ..segments import SegmentPlan
from ..settings import Settings
from ..storage.files import free_disk, read_json_or_empty, write_json
from ..units import format_bytes, format_duration

THROUGHPUT_FILENAME, SPEED_FILENAME = "pace.json", "speed.json"
UNKNOWN_TIME = "unknown: no earlier run on this machine; `hallo3 doctor --measure` tells in a minute"
MAX_ERROR = 0.6
"""Relative, of an expected time that is given as a range."""
MAX_THROUGHPUT_KEYS = 200
"""The oldest are forgotten."""
FLOAT_BYTES = 4
MAX_PROMPTS, MAX_LETTERS = 12, 60
"""Prompts that a summary lists, and letters of each."""
BITS_PER_PIXEL = {"h264": 0.5, "h265": 0.35, "prores": 4.0, "ffv1": 10.0}
"""Of encoded video if no earlier run tells: talking heads at the default quality, a high estimate."""
CONTAINER_BYTES, SEGMENT_FILE_BYTES = 1000, 4096
"""Overhead per frame and per segment's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The size of a run. ``network_evaluations`` counts forward passes of the transformer, one per guidance
    branch; it is an upper limit if a step cache ``reuses`` estimates. ``prompts`` are there if they change:
    the seconds from which each is in force. ``more_segments`` are needed than if each kept all of its frames.
    """

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
    strengths: str = ""
    prompts: tuple[tuple[float, str], ...] = ()
    more_segments: int = 0
    chapters: int = 1
    speakers: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON; ``reuses`` is there only if it is true, others if they say more than a video of a single
        prompt and guidance scale, equal segments and one speaker has."""
        optional = {
            "reuses": False,
            "strengths": "",
            "prompts": (),
            "more_segments": 0,
            "chapters": 1,
            "speakers": "",
        }
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in optional or value != optional[name]
        }

    def text(self) -> str:
        speakers = f"speakers  {self.speakers}\n" if self.speakers else ""
        return (
            f"model     {self.model}\n{speakers}"
            f"video     {self.frames} frames, {self.seconds:.2f} s at {self.fps} fps, "
            f"{self.width} x {self.height}\n"
            f"segments  {self.segments}{self._describe_seams()}\n"
            f"{self._list_prompts()}"
            f"sampling  {self.steps} steps of {self.sampler}, "
            f"{self.strengths or f'guidance {self.guidance_scale:g}'}\n"
            f"network   {'at most ' * self.reuses}{self.network_evaluations} evaluations{self._compare()}\n"
            f"attention {self.attention}"
        )

    def _describe_seams(self) -> str:
        more = f", {self.more_segments} more for seams in pauses" * bool(self.more_segments)
        return more + f", {self.chapters} chapters" * (self.chapters > 1)

    def _list_prompts(self) -> str:
        shown = [
            f"{start:.2f} s: {prompt[:MAX_LETTERS] or 'none'}{'...' * (len(prompt) > MAX_LETTERS)}"
            for start, prompt in self.prompts
        ]
        if (more := len(shown) - MAX_PROMPTS) > 0:
            shown[MAX_PROMPTS:] = [f"and {more} more"]
        return "".join(f"{'' if n else 'prompts':<10}{text}\n" for n, text in enumerate(shown))

    def _compare(self) -> str:
        """With the evaluations of one guidance scale, if there are strengths."""
        times = self.network_evaluations / (2 * self.steps * self.segments)
        return f", {times:.3g} times those of one guidance scale" if self.strengths else ""


def summarize_run(
    model: str,
    plan: SegmentPlan,
    settings: Settings,
    size: tuple[int, int],
    attention: str,
    prompts: Sequence[str],
    speakers: str = "",
) -> RunSummary:
    """``size`` is the video's (width, height); ``prompts`` are the segments'; ``speakers`` says who speaks,
    if several people do."""
    changes = [n for n, prompt in enumerate(prompts) if not n or prompt != prompts[n - 1]]
    starts = [start / plan.config.fps for start in plan.starts]
    timed = tuple((starts[n], prompts[n]) for n in changes)
    return RunSummary(
        model=model,
        segments=len(plan),
        frames=plan.frames,
        seconds=plan.frames / plan.config.fps,
        width=size[0],
        height=size[1],
        fps=plan.config.fps,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        sampler=settings.sampler,
        network_evaluations=settings.count_evaluations(starts, [bool(prompt.strip()) for prompt in prompts]),
        attention=attention,
        reuses=settings.step_cache > 0,
        strengths="" if settings.strengths is None else settings.strengths.describe(),
        prompts=timed if len(timed) > 1 else (),
        more_segments=len(plan) - len(SegmentPlan(plan.frames, plan.config)),
        chapters=len(plan.chapters) + 1,
        speakers=speakers,
    )


@dataclass(frozen=True, slots=True)
class Throughput:
    """Median ``seconds`` per segment, and bytes of encoded video per frame."""

    seconds: float
    frame_bytes: float


def throughput_key(
    model: str,
    device: str,
    evaluations: int,
    size: tuple[int, int],
    encoding: VideoEncoding,
    step_cache: float = 0.0,
) -> str:
    """Runs with the same key take about as long per segment. ``device`` may say more than the device's
    type."""
    cache = f"step cache {step_cache:g} " if step_cache else ""
    return f"{model} {device} {evaluations} evaluations {cache}{size[0]}x{size[1]} {encoding.facts()}"


def read_throughput(jobs: Path, key: str) -> Throughput | None:
    """What earlier runs took; None if there were none."""
    with suppress(TypeError, KeyError, ValueError, OverflowError):
        entry = read_json_or_empty(jobs / THROUGHPUT_FILENAME)[key]
        throughput = Throughput(float(entry["seconds"]), float(entry["frame_bytes"]))
        if 0 < throughput.seconds < 1e7 and 0 < throughput.frame_bytes < 1e9:
            return throughput
    return None


def save_throughput(jobs: Path, key: str, throughput: Throughput) -> None:
    """Keep it for later estimates; a folder that cannot be written to is no error."""
    known = read_json_or_empty(jobs / THROUGHPUT_FILENAME)
    known.pop(key, None)
    known[key] = asdict(throughput)
    with suppress(OSError):
        write_json(jobs / THROUGHPUT_FILENAME, dict(list(known.items())[-MAX_THROUGHPUT_KEYS:]))


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """Seconds that a segment is expected to take, and their relative error."""

    seconds: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpeed:
    """Seconds on a device, measured in parts: a step with ``both`` guidance branches or a ``single`` one, a
    step of both with all ``blocks`` streamed from RAM (0: not measured), what a segment takes ``beside`` its
    steps, and a ``pixel`` of the video to encode and judge. ``error`` is relative."""

    both: float
    single: float
    streamed: float
    beside: float
    pixel: float
    blocks: int
    error: float

    def segment_time(
        self,
        *,
        guided: int,
        unguided: int,
        pixels: int,
        three: int = 0,
        streamed: int = 0,
        sequential: bool = False,
        read: float = 0.0,
    ) -> SegmentTime | None:
        """A segment with this many steps of two branches, of one and of ``three``, of a video with ``pixels``
        in its new frames, if ``streamed`` blocks come from RAM and ``read`` seconds pass reading from disk in
        each step; both pass beside the computation. None if streaming was not measured."""
        if streamed and not self.streamed:
            return None
        copied = max(read, self.streamed * streamed / self.blocks)
        both = 2 * self.single if sequential else self.both
        more = 3 * self.single if sequential else 2 * self.both - self.single
        steps = sum(
            count * max(copied, each)
            for count, each in ((unguided, self.single), (guided, both), (three, more))
        )
        return SegmentTime(steps + self.beside + pixels * self.pixel, self.error)


def speed_key(config: Hallo3Config, precision: str) -> str:
    """Models with the same key compute as fast."""
    trunk, segment = config.trunk, config.segment
    size = f"{trunk.layers} x {trunk.width}, {segment.frames} x {segment.height} x {segment.width}"
    return f"{config.name} {size}, {precision}"


def _speed_path() -> Path | None:
    examined = examined_path()
    return None if examined is None else examined.with_name(SPEED_FILENAME)


def _speed_machine(device: torch.device) -> str:
    return f"{device_name(device)}, torch {torch.__version__}"


def save_speed(device: torch.device, key: str, speed: ModelSpeed) -> None:
    """Keep it for plans of this device and version of torch; a folder that cannot be written to is no
    error."""
    if (path := _speed_path()) is None:
        return
    known, machine = read_json_or_empty(path), _speed_machine(device)
    mine = known.pop(machine, {})
    known[machine] = (mine if isinstance(mine, dict) else {}) | {key: asdict(speed)}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(list(known.items())[-MAX_THROUGHPUT_KEYS:]))


def read_speed(device: torch.device, key: str) -> ModelSpeed | None:
    """What ``hallo3 doctor --measure`` measured here; None if it did not."""
    if (path := _speed_path()) is None:
        return None
    with suppress(TypeError, KeyError, ValueError, OverflowError, AttributeError):
        entry = read_json_or_empty(path)[_speed_machine(device)][key]
        names = [field.name for field in fields(ModelSpeed)]
        numbers = {name: float(entry.pop(name)) for name in names}
        blocks = int(numbers.pop("blocks"))
        if 1 <= blocks < 1e4 and all(0 <= number < 1e7 for number in numbers.values()):
            return ModelSpeed(blocks=blocks, **numbers)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """``job`` bytes on disk while rendering, ``video`` bytes of the finished file, at most ``memory`` bytes
    of system RAM; ``render_seconds`` as on earlier runs, or with their relative ``error`` as the device was
    measured, or None. ``measured``: sizes are from earlier runs too; ``grows``: memory grows with the length
    of the speech; ``pace``: seconds of computing per second of video; ``segment_length``: of its video, in
    seconds."""

    segments: int
    frames: int
    job: int
    video: int
    memory: int
    render_seconds: float | None
    measured: bool
    grows: bool
    segment_length: float
    pace: float | None = None
    error: float | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON, without the length of a segment; ``pace`` and ``error`` are there only if they are
        known."""
        facts = asdict(self)
        del facts["segment_length"]
        return {name: value for name, value in facts.items() if name not in ("pace", "error") or value}

    def expecting(self, time: SegmentTime | None) -> RunEstimate:
        """The estimate with the time that all segments should take, if no earlier run tells."""
        if time is None or self.render_seconds is not None:
            return self
        pace, whole = time.seconds / self.segment_length, time.seconds * self.segments
        return replace(self, render_seconds=whole, pace=pace, error=time.error)

    @property
    def disk(self) -> int:
        """Peak bytes of all files."""
        return self.job + self.video

    def text(self) -> str:
        source = "from earlier runs" if self.measured else "estimate"
        time = UNKNOWN_TIME
        if self.render_seconds is not None and self.pace is not None:
            error = self.error or 0.0
            whole, minute = format_range(self.render_seconds, error), format_range(60 * self.pace, error)
            origin = "from earlier runs" if self.error is None else "as this device was measured"
            time = f"{whole} ({origin}): {minute} of computing for a minute of video"
        length = "for this speech" if self.grows else "independent of length"
        return (
            f"disk      {format_bytes(self.disk)} while rendering, {format_bytes(self.video)} when finished "
            f"({source})\n"
            f"memory    system RAM {format_bytes(self.memory)}, {length}\n"
            f"time      {time}"
        )


def format_range(seconds: float, error: float) -> str:
    """``40 s to 2 min``, for a relative error; one duration where it says little."""
    if error > MAX_ERROR:
        return f"about {format_duration(seconds)}, uncertain as other programs were busy,"
    low, high = format_duration(seconds * (1 - error)), format_duration(seconds * (1 + error))
    return low if low == high else f"{low} to {high}"


def estimate_run(
    plan: SegmentPlan,
    shape: VideoShape,
    size: tuple[int, int],
    codec: str,
    *,
    ram: int,
    features: int,
    segments_left: int | None = None,
    keep_pixels: bool = False,
    throughput: Throughput | None = None,
) -> RunEstimate:
    """Estimate a run whose video is ``size`` (width, height). ``ram`` bytes are needed, whatever its
    length; ``features`` bytes are kept per frame of speech; ``segments_left`` defaults to all."""
    width, height = size
    frame = BITS_PER_PIXEL[codec] * width * height / 8 + 40
    if throughput is not None:
        frame = throughput.frame_bytes
    video = int(plan.frames * (frame + CONTAINER_BYTES))
    frame_floats = 3 * shape.height * shape.width * FLOAT_BYTES
    motion = plan.config.motion_frames * frame_floats
    pixels = plan.frames * frame_floats if keep_pixels else 0
    left = len(plan) if segments_left is None else segments_left
    return RunEstimate(
        segments=len(plan),
        frames=plan.frames,
        job=2 * video + len(plan) * (motion + SEGMENT_FILE_BYTES) + plan.frames * features + pixels,
        video=video,
        memory=ram + pixels,
        render_seconds=None if throughput is None else throughput.seconds * left,
        measured=throughput is not None,
        grows=keep_pixels,
        segment_length=plan.config.new_frames / plan.config.fps,
        pace=None if throughput is None else throughput.seconds * plan.config.fps / plan.config.new_frames,
    )


def check_disk(estimate: RunEstimate, folder: Path, existing: int = 0) -> None:
    """Refuse a run whose files do not fit into ``folder``, of which ``existing`` bytes are there already.
    Raises ``InputError``."""
    free = free_disk(folder)
    needed = max(0, estimate.disk - existing)
    if needed > free:
        raise InputError(
            "The video does not fit on the disk.",
            found=f"{format_bytes(free)} free in {folder}",
            expected=f"{format_bytes(needed)} for {estimate.frames:,} frames, {estimate.segments:,} segments",
            fix="free some space, choose a folder on another disk, or make the video in parts",
            may_pass=True,
        )
