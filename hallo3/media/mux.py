"""Pieces and sound in one file, without encoding anything again: while it grows, and at the end."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import OutputError
from ..storage.atomic import finalize_file, temporary_path, write_error
from .audio import Recording, read_pieces
from .audio_decoder import open_audio


class Sink(io.BufferedWriter):
    """The file at ``path``, emptied, for FFmpeg to write. Raises ``OSError`` if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._failure: OSError | None = None

    def write(self, block: Any, /) -> int:
        """All of it, or nothing after a failure; FFmpeg is not told."""
        if self._failure is None:
            try:
                return super().write(block)
            except OSError as error:
                self._failure = error
        return len(block)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """To where FFmpeg goes on; what is held back is written first."""
        if self._failure is None:
            try:
                return super().seek(offset, whence)
            except OSError as error:
                self._failure = error
        return max(offset, 0)

    def check(self) -> None:
        """Write what is held back. Raises the ``OSError`` that this or anything before met."""
        if self._failure is not None:
            raise self._failure
        self.flush()


FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
MARK = "AI-generated: this person was animated by a machine (Hallo3)."
"""What a video says of itself unless that is switched off."""
HEADLINE = "The video cannot be written."
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "400000"}
GROWING = {
    "mp4": FRAGMENTS,
    "mov": FRAGMENTS,
    "matroska": {"cluster_time_limit": "400"},
}
"""FFmpeg's options for a file that plays while it grows and after a crash: all but its last 0.4 seconds."""
REORDERED = 2
"""Frames by which decoding runs ahead of showing. A short piece may do with less; a joined video must not."""
FINAL = {"mp4": {"movflags": "faststart"}, "mov": {"movflags": "faststart"}, "matroska": {}}


class GrowingVideo:
    """A video file to which pieces are appended. A context manager; the file is closed on leaving.

    ``sound`` is an MP4 of nothing but sound, or None. Raises ``OutputError`` if it cannot be written.
    """

    def __init__(
        self, path: Path, form: str, options: dict[str, str], sound: Path | None, mark: bool
    ) -> None:
        self.path = path
        self._form, self._options, self._mark = form, options, mark
        self._sound_path = sound
        self._picture: Any = None
        self._count = self._frame = self._delay = 0

    def __enter__(self) -> Self:
        import av

        try:
            self._file = Sink(self.path)
            options = {**self._options, "flush_packets": "1"}
            self._container: Any = av.open(self._file, "w", format=self._form, options=options)
            self._sound = _Sound(self._sound_path) if self._sound_path else None
        except OSError as error:
            raise write_error(HEADLINE, self.path, error) from error
        if self._mark:
            self._container.metadata["comment"] = MARK
        return self

    def append(self, piece: bytes) -> None:
        """Add a piece, and the sound that belongs to it."""
        import av

        source: Any = av.open(BytesIO(piece))
        with source:
            track: Any = source.streams.video[0]
            if self._picture is None:
                self._begin(track)
            begun = self._count
            for packet in source.demux(track):
                if not packet.size:
                    continue
                frame = self._frame = self._frame or packet.duration
                packet.pts, packet.duration = packet.pts + begun * frame, frame
                packet.dts = (self._count - self._delay) * frame
                packet.stream = self._picture
                self._mux(packet)
                self._count += 1
            time = self._count * self._frame * track.time_base
        if self._sound is not None:
            for packet in self._sound.until(time):
                self._mux(packet)
        self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._sound is not None and self._picture is not None:
                for packet in self._sound.until(None):
                    self._mux(packet)
            self._close()
        except OSError as failure:
            with suppress(OSError):
                self._file.close()
            if kind is None:
                raise write_error(HEADLINE, self.path, failure) from failure

    def _begin(self, track: Any) -> None:
        try:
            self._picture = self._container.add_stream_from_template(track)
        except ValueError as error:
            raise OutputError(
                HEADLINE,
                found=f"{track.codec_context.name} in {self.path.suffix}: {error}",
                expected="a codec that this kind of file holds",
                fix="choose another file ending or codec",
            ) from error
        self._picture.time_base = track.time_base
        self._delay = REORDERED if track.codec_context.has_b_frames else 0
        if self._sound is not None:
            self._sound.target = self._container.add_stream_from_template(self._sound.track)

    def _mux(self, packet: Any) -> None:
        try:
            self._container.mux(packet)
        except OSError as error:
            raise write_error(HEADLINE, self.path, error) from error

    def _flush(self) -> None:
        try:
            self._file.check()
        except OSError as error:
            raise write_error(HEADLINE, self.path, error) from error

    def _close(self) -> None:
        try:
            if self._picture is not None:
                self._container.close()
            self._file.check()
        finally:
            if self._sound is not None:
                self._sound.close()
            self._file.close()
        if self._picture is None:  # nothing was appended: there is no video
            self.path.unlink(missing_ok=True)


class _Sound:
    """Packets of an encoded sound, as time goes by."""

    def __init__(self, path: Path) -> None:
        import av

        self._file = path.open("rb")
        self._container: Any = av.open(self._file)
        self.track: Any = self._container.streams.audio[0]
        self.target: Any = None
        self._packets = self._container.demux(self.track)
        self._waiting: Any = None

    def until(self, time: Fraction | None) -> Iterator[Any]:
        """Packets that begin before a time in seconds, or all that are left."""
        while True:
            packet = self._waiting or next(self._packets, None)
            self._waiting = None
            if packet is None or not packet.size:
                return
            if time is not None and packet.pts * packet.time_base >= time:
                self._waiting = packet
                return
            packet.stream = self.target
            yield packet

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()


def open_growing_video(path: Path, sound: Path | None, mark: bool = True) -> GrowingVideo:
    """A video that plays while it grows. What has been appended survives a crash but for 0.4 seconds."""
    form = FORMATS.get(path.suffix.lower(), "mp4")
    return GrowingVideo(path, form, GROWING[form], sound, mark)


def join_segments(
    pieces: Iterable[bytes], sound: Path | None, path: Path, mark: bool = True, name: str = ""
) -> None:
    """The finished video at ``path``: an ordinary file, whole or not there. ``name`` is what it is called
    beside that place until then.

    Raises ``OutputError`` if it cannot be written; whatever had its name before is then still there.
    """
    form = FORMATS[path.suffix.lower()]
    fresh = temporary_path(path.with_name(name) if name else path)
    try:
        with GrowingVideo(fresh, form, FINAL[form], sound, mark) as video:
            for piece in pieces:
                video.append(piece)
        finalize_file(fresh, path)
    except BaseException as error:
        with suppress(OSError):
            fresh.unlink()
        if isinstance(error, OSError):
            raise write_error(HEADLINE, path, error) from error
        raise


def decode_frames(piece: bytes) -> Tensor:
    """A piece's frames, decoded: [F, 3, H, W] in 0..1."""
    import av

    source: Any = av.open(BytesIO(piece))
    with source:
        pictures: list[Any] = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
MIXED = 8
"""Channels that FFmpeg knows how to mix; of more, the mean is taken."""
PIECE = 1 << 16
"""Samples of a recording in memory that are handed over at a time."""


def encode_soundtrack(parts: list[tuple[Path | Recording, Fraction]], path: Path) -> None:
    """Recordings one after the other as AAC, each cut or filled up with silence to so many seconds.

    Sound goes through piece by piece and is cut to full scale, as any player would: far beyond it the encoder
    fails. ``path`` is an MP4 with nothing but sound. Raises ``AudioError``, or ``OSError`` if it cannot be
    written.
    """
    import av

    rate, layout = _common([source for source, _ in parts])
    with Sink(path) as file:
        with av.open(file, "w", format="mp4") as target:
            stream: Any = target.add_stream("aac", rate=rate, layout=layout)
            written, end = 0, Fraction(0)
            for source, seconds in parts:
                end += seconds
                limit = int(end * rate)
                for samples in _filled(_samples(source, rate, layout), limit - written):
                    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
                    frame.sample_rate, frame.pts, frame.time_base = rate, written, Fraction(1, rate)
                    written += samples.shape[1]
                    target.mux(stream.encode(frame))
                    file.check()
            target.mux(stream.encode(None))
        file.check()


def _common(sources: list[Path | Recording]) -> tuple[int, str]:
    """The rate and layout that suit all: the highest rate that AAC has, stereo if any is."""
    rates: list[int] = []
    mono = True
    for source in sources:
        rate, channels = _form(source)
        rates.append(rate if rate in AAC_RATES else 48000)
        mono = mono and channels == 1
    return max(rates), "mono" if mono else "stereo"


def _form(source: Path | Recording) -> tuple[int, int]:
    if isinstance(source, Recording):
        return source.sample_rate, source.waveform.shape[0]
    with open_audio(source) as file:
        return file.sample_rate, file.channels


def _samples(source: Path | Recording, rate: int, layout: str) -> Iterator[np.ndarray[Any, Any]]:
    import av

    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    for frame in _frames(source):
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()
    for piece in resampler.resample(None):
        yield piece.to_ndarray()


def _frames(source: Path | Recording) -> Iterator[Any]:
    if isinstance(source, Recording):
        yield from _frames_of(source, 0)
        return
    with open_audio(source) as file:
        if file.channels <= MIXED:
            yield from file.container.decode(file.track)
            return
    done = 0
    for piece in read_pieces(source):
        yield from _frames_of(piece, done)
        done += piece.waveform.shape[1]


def _frames_of(source: Recording, begun: int) -> Iterator[Any]:
    """A recording, or the piece of one that begins at a sample, as FFmpeg's frames."""
    import av

    waveform = source.waveform if source.waveform.shape[0] <= 2 else source.waveform.mean(0, keepdim=True)
    for start in range(0, waveform.shape[1], PIECE):
        samples = waveform[:, start : start + PIECE].float().clamp(-1, 1).contiguous().numpy()
        frame = av.AudioFrame.from_ndarray(
            samples, format="fltp", layout="mono" if len(samples) == 1 else "stereo"
        )
        frame.sample_rate, frame.pts = source.sample_rate, begun + start
        frame.time_base = Fraction(1, source.sample_rate)
        yield frame


def _filled(pieces: Iterator[np.ndarray[Any, Any]], wanted: int) -> Iterator[np.ndarray[Any, Any]]:
    """Exactly so many samples: cut, or silence at the end; the last recording may end early."""
    channels = 1
    for samples in pieces:
        channels = samples.shape[0]
        if wanted <= 0:
            return
        yield np.ascontiguousarray(samples[:, :wanted].clip(-1, 1))
        wanted -= samples.shape[1]
    while wanted > 0:
        yield np.zeros((channels, min(wanted, PIECE)), np.float32)
        wanted -= PIECE
