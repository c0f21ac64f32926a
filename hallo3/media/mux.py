"""Segments and sound in one video file without re-encoding: while it grows, and at the end.

FFmpeg's concat demuxer joins files that are complete. A video that plays while it is rendered, and after a
crash, must be appended to, which no library does: here packets of each segment are copied with new times. If
the growing file were dropped, concat could replace ``GrowingVideo``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import OutputError
from ..storage.files import create_file, finalize_file, open_regular, temporary_path, write_error
from .audio import Recording, read_pieces
from .audio_decoder import decode_sound, open_audio
from .video import damage_error, open_mp4, open_segment

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
AI_COMMENT = "AI-generated: this person was animated by a machine (Hallo3)."
"""In a video's metadata by default."""
HEADLINE = "The video cannot be written."
FRAGMENTS = {
    "movflags": "frag_keyframe+delay_moov+hybrid_fragmented+default_base_moof",
    "frag_duration": "400000",
}
GROWING_OPTIONS = {"mp4": FRAGMENTS, "mov": FRAGMENTS, "matroska": {"cluster_time_limit": "400"}}
"""FFmpeg's options for a file that plays while it grows. An MP4's header waits for the first fragment, as it
needs the edit lists that put picture and sound at 0; when it is closed, it becomes an ordinary file."""
FINAL_OPTIONS = {"mp4": {"movflags": "faststart"}, "mov": {"movflags": "faststart"}, "matroska": {}}
REORDERED_FRAMES = 2
"""By which decoding is ahead of display: one value for a joined video, though short segments need fewer."""
MATROSKA_DURATION = b"\x44\x89\x88"
"""An element of 8 bytes: milliseconds as a float."""


class OutputFile(io.BufferedWriter):
    """A file for FFmpeg, which does not handle errors: the first is kept for :meth:`check`."""

    def __init__(self, path: Path) -> None:
        def create(_: str, flags: int) -> int:
            del flags
            return create_file(path)

        super().__init__(io.FileIO(path, "wb", opener=create))
        self._failure: OSError | None = None

    def write(self, block: Any, /) -> int:
        if self._failure is None:
            try:
                return super().write(block)
            except OSError as error:
                self._failure = error
        return len(block)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if self._failure is None:
            try:
                return super().seek(offset, whence)
            except OSError as error:
                self._failure = error
        return max(offset, 0)

    def check(self) -> None:
        """Flush. Raises the first ``OSError`` of this or any call before."""
        if self._failure is not None:
            raise self._failure
        self.flush()


@contextmanager
def _report_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(HEADLINE, path, error) from error


class GrowingVideo:
    """A video file to append segments to, as a context manager. ``sound`` is an MP4 with sound only. It plays
    while it grows, and after a crash without its last 0.4 seconds; with a ``final_suffix``, the ending of its
    later name, it plays when it is complete. Raises ``OutputError`` if it cannot be written."""

    def __init__(
        self, path: Path, sound: Path | None, comment: str = AI_COMMENT, *, final_suffix: str = ""
    ) -> None:
        self.path, self._sound_path, self._comment = path, sound, comment
        self._format = FORMATS.get((final_suffix or path.suffix).lower(), "mp4")
        self._options = (FINAL_OPTIONS if final_suffix else GROWING_OPTIONS)[self._format]
        self._picture: Any = None
        self._count = self._frame = self._delay = 0
        self._seconds = Fraction(0)

    def __enter__(self) -> Self:
        import av

        self._sound = _SoundPackets(self._sound_path) if self._sound_path else None
        with ExitStack() as stack, _report_errors(self.path):
            if self._sound is not None:
                stack.callback(self._sound.close)
            self._file = OutputFile(self.path)
            options = {**self._options, "flush_packets": "1"}
            self._container: Any = av.open(self._file, "w", format=self._format, options=options)
            stack.pop_all()
        if self._comment:
            self._container.metadata["comment"] = self._comment
        return self

    def append(self, segment: bytes) -> None:
        """Add an encoded segment, and the sound of its time."""
        with open_segment(segment) as (track, packets), _report_errors(self.path):
            if self._picture is None:
                self._add_streams(track)
            first = self._count
            for packet in packets:
                frame = self._frame = self._frame or packet.duration
                packet.pts, packet.duration = packet.pts + first * frame, frame
                packet.dts = (self._count - self._delay) * frame
                packet.stream = self._picture
                self._container.mux(packet)
                self._count += 1
            self._seconds = self._count * self._frame * track.time_base
            if self._sound is not None:
                self._sound.mux_until(self._seconds, self._container)
            self._file.check()

    def _add_streams(self, track: Any) -> None:
        try:
            self._picture = self._container.add_stream_from_template(track)
        except ValueError as error:
            raise OutputError(
                HEADLINE,
                found=f"{track.codec_context.name} in {self.path.suffix}: {error}",
                expected="a codec for this file type",
                fix="choose another file ending or codec",
            ) from error
        self._picture.time_base = track.time_base
        if self._format != "matroska":  # Apple plays H.265 as hvc1 only
            self._picture.codec_context.codec_tag = track.codec_context.codec_tag
        self._delay = REORDERED_FRAMES if track.codec_context.has_b_frames else 0
        if self._sound is not None:
            self._sound.add_to(self._container)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            try:
                if self._picture is not None:
                    if kind is None and self._sound is not None:
                        self._sound.mux_until(None, self._container)
                    self._container.close()
                    self._correct_duration()
                self._file.check()
            finally:
                if self._sound is not None:
                    self._sound.close()
                self._file.close()
            if self._picture is None:  # no segment: not a video
                self.path.unlink(missing_ok=True)
        except OSError as failure:
            with suppress(OSError):
                self._file.close()
            if kind is None:
                raise write_error(HEADLINE, self.path, failure) from failure

    def _correct_duration(self) -> None:
        """Of a Matroska file, which FFmpeg makes longer by the sound's priming."""
        if self._format == "matroska" and self._sound is not None:
            self._file.check()
            with self.path.open("rb") as written:
                place = written.read(4096).find(MATROSKA_DURATION)
            if place >= 0:
                self._file.seek(place + len(MATROSKA_DURATION))
                self._file.write(struct.pack(">d", float(1000 * self._seconds)))


class _SoundPackets:
    """The packets of an encoded sound, to mux as time passes."""

    def __init__(self, path: Path) -> None:
        self._stack = ExitStack()
        self.track: Any = self._stack.enter_context(open_soundtrack(path))
        self.target: Any = None
        self._packets = self.track.container.demux(self.track)
        self._next: Any = None

    def add_to(self, container: Any) -> None:
        """With the length of the encoder's priming, which a copy lacks: a Matroska file would begin with
        it."""
        codec = self.track.codec_context
        self.target = container.add_stream("aac", rate=codec.sample_rate, layout=codec.layout.name)

    def mux_until(self, time: Fraction | None, container: Any) -> None:
        """Mux the packets that start before a time in seconds, or all."""
        while (packet := self._next or next(self._packets, None)) is not None and packet.size:
            self._next = packet
            if time is not None and packet.pts * packet.time_base >= time:
                return
            packet.stream, self._next = self.target, None
            container.mux(packet)

    def close(self) -> None:
        self._stack.close()


def join_segments(
    segments: Iterable[bytes], sound: Path | None, path: Path, comment: str = AI_COMMENT, name: str = ""
) -> None:
    """Write the finished video at ``path``: complete or not at all. ``name`` is its name until then. Raises
    ``OutputError`` if it cannot be written; an earlier file at ``path`` is then still there."""
    fresh = temporary_path(path.with_name(name) if name else path)
    try:
        with _report_errors(path):
            with GrowingVideo(fresh, sound, comment, final_suffix=path.suffix) as video:
                for segment in segments:
                    video.append(segment)
            finalize_file(fresh, path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise


def decode_frames(segment: bytes) -> Tensor:
    """The frames of an encoded segment: [F, 3, H, W] in 0..1."""
    from av.error import FFmpegError

    with open_segment(segment) as (track, packets):
        codec = track.codec_context
        size, pixels = (codec.height, codec.width), (codec.height + 64) * (codec.width + 64)
        codec.options = {"max_pixels": str(pixels)}  # a packet may say that it is larger
        try:
            decoded = [frame for packet in [*packets, None] for frame in codec.decode(packet)]
            if [(frame.height, frame.width) for frame in decoded] != [size] * len(packets):
                raise ValueError("frames are missing, or of other sizes")
            pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
        except (FFmpegError, ValueError) as error:
            raise damage_error(error) from error
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_SAMPLES = 1024
"""Per packet; the first is the encoder's priming."""
MAX_MIXED_CHANNELS = 8
"""That FFmpeg can mix; of more, the mean is used."""
BLOCK_SAMPLES = 1 << 16
"""Of a recording in memory, per frame of FFmpeg's."""


@contextmanager
def open_soundtrack(path: Path) -> Generator[Any]:
    """The track of a file by :func:`encode_soundtrack`. Raises ``OutputError`` for anything else."""
    from av.error import FFmpegError

    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(path, follow_links=False))
            with open_mp4(file, "audio", "aac") as track:
                _check_soundtrack(track)
            track = stack.enter_context(open_mp4(file, "audio", "aac"))
        except (OSError, FFmpegError, ValueError) as error:
            raise OutputError(
                "The sound of the video is damaged.",
                found=f"{path}: {error}",
                expected="the file as it was written",
                fix="delete it and run the same again",
            ) from error
        yield track


def _check_soundtrack(track: Any) -> None:
    """Raises ``ValueError`` for a sound whose packets do not follow each other."""
    codec, starts = (
        track.codec_context,
        [packet.pts for packet in track.container.demux(track) if packet.size],
    )
    if codec.sample_rate not in AAC_RATES or codec.layout.nb_channels not in (1, 2):
        raise ValueError(f"{codec.layout.nb_channels} channels at {codec.sample_rate} Hz")
    whole = [(number - 1) * AAC_SAMPLES for number in range(len(starts))]
    if not whole or starts != whole or track.time_base != Fraction(1, codec.sample_rate):
        raise ValueError("packets at other times")


class Sound(Protocol):
    """A recording in memory, or several at once."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...
    def pieces(self) -> Iterator[Recording]: ...


def encode_soundtrack(
    parts: list[tuple[Path | Sound, Fraction]], path: Path, track: int | None = None
) -> None:
    """Encode recordings one after the other as AAC in an MP4, each cut or padded with silence to its seconds.
    The sound is streamed, and clipped to full scale as any player would: far beyond it the encoder fails.
    ``track`` is that of the last file. Raises ``AudioError``, or ``OSError`` if it cannot be written."""
    import av

    tracks = [*[None] * (len(parts) - 1), track]
    rate, layout = _choose_format([source for source, _ in parts], tracks)
    channels = 1 if layout == "mono" else 2
    with OutputFile(path) as file:
        with av.open(file, "w", format="mp4") as target:
            stream: Any = target.add_stream("aac", rate=rate, layout=layout)
            written, end = 0, Fraction(0)
            for (source, seconds), number in zip(parts, tracks, strict=True):
                end += seconds
                blocks = _resample(_read_frames(source, number), rate, layout)
                for samples in _fit_length(blocks, int(end * rate) - written, channels):
                    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
                    frame.sample_rate, frame.pts, frame.time_base = rate, written, Fraction(1, rate)
                    written += samples.shape[1]
                    target.mux(stream.encode(frame))
                    file.check()
            target.mux(stream.encode(None))
        file.check()


def _choose_format(sources: list[Path | Sound], tracks: list[int | None]) -> tuple[int, str]:
    """The highest rate that AAC has, and stereo if any recording is."""
    rates, is_mono = list[int](), True
    for source, track in zip(sources, tracks, strict=True):
        if not isinstance(source, Path):
            rate, channels = source.sample_rate, source.channels
        else:
            with open_audio(source, track) as file:
                rate, channels = file.sample_rate, file.channels
        rates.append(rate if rate in AAC_RATES else 48000)
        is_mono = is_mono and channels == 1
    return max(rates), "mono" if is_mono else "stereo"


def _resample(frames: Iterator[Any], rate: int, layout: str) -> Iterator[np.ndarray[Any, Any]]:
    import av

    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    for frame in chain(frames, [None]):
        for block in resampler.resample(frame):
            yield block.to_ndarray()


def _read_frames(source: Path | Sound, track: int | None) -> Iterator[Any]:
    import av

    if isinstance(source, Path):
        with open_audio(source, track) as file:
            if file.channels <= MAX_MIXED_CHANNELS:
                yield from decode_sound(file)
                return
    start = 0
    for piece in read_pieces(source, track, tell=False) if isinstance(source, Path) else source.pieces():
        waveform = piece.waveform if piece.waveform.shape[0] <= 2 else piece.waveform.mean(0, keepdim=True)
        for block in torch.split(waveform, BLOCK_SAMPLES, dim=1):
            samples = block.float().clamp(-1, 1).contiguous().numpy()
            layout = "mono" if len(samples) == 1 else "stereo"
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = piece.sample_rate, start
            frame.time_base = Fraction(1, piece.sample_rate)
            start += samples.shape[1]
            yield frame


def _fit_length(
    blocks: Iterator[np.ndarray[Any, Any]], missing: int, channels: int
) -> Iterator[np.ndarray[Any, Any]]:
    """Exactly ``missing`` samples: cut, or with silence at the end."""
    for samples in blocks:
        if missing <= 0:
            return
        yield np.ascontiguousarray(samples[:, :missing].clip(-1, 1))
        missing -= samples.shape[1]
    while missing > 0:
        yield np.zeros((channels, min(missing, BLOCK_SAMPLES)), np.float32)
        missing -= BLOCK_SAMPLES
