"""Audio files, opened with no more of FFmpeg than speech needs: decoders have faults."""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import AudioError
from ..messages import logger
from ..storage.files import open_regular

FORMATS = "wav,w64,aiff,au,caf,flac,mp3,aac,ogg,amr,ac3,eac3,mov,matroska,avi,mpegts,mpeg,asf,flv"
"""File formats, as FFmpeg names them; none of them names other files to be read."""
CODECS = (
    "mp3,mp3float,mp2,mp2float,aac,opus,libopus,vorbis,flac,alac,ac3,eac3,wmav1,wmav2,wmapro,"
    "amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,adpcm_ms,adpcm_ima_wav,pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be"
)
"""Decoders, of audio only: FFmpeg would open a video's too, to look at it."""
OPEN_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": FORMATS,
    "codec_whitelist": CODECS,
    "max_size": "16384",  # bytes per packet of WAV, four times FFmpeg's
}
SAFE_FFMPEG = (8, 1, 2)
"""The first FFmpeg without the decoder faults published in 2026."""
EXACT_LENGTH_FORMATS = ("wav", "flac", "aiff", "mov,mp4,m4a,3gp,3g2,mj2")
"""Formats whose length FFmpeg knows rather than estimates."""
UNKNOWN_SIZE = 0x7FFF0000
"""WAV sizes from here on are written by programs that do not know the length in advance."""
MAX_WAV_CHUNKS = 1000
WAV_PCM, WAV_ADPCM = (1, 3, 6, 7, 0xFFFE), (2, 17)
"""Format tags of a sample per channel and block, and of a number of samples that the header states."""


MISSING_SECONDS = 0.25
"""What a file may lack of the length in its header without a warning: encoders round to their frames."""
FORMATS_WITHOUT_CLOCK = ("avi",)
"""Formats that count blocks: their timestamps may skip where no sound is missing."""
GAP_SECONDS = 0.004
"""Frames whose timestamps are apart by less follow each other: clocks jitter and are rounded."""
MAX_GAP_SECONDS = 3600
"""Timestamps that jump ahead by more are faulty."""
RESET_SECONDS = 1
"""Timestamps that jump back by more are of another clock: of joined files, or one that was set."""
MAX_TAIL_SECONDS = 1
"""Of a file's length that is silence where reading fails before the end."""
MAX_DEMUX_ERRORS = 8
READ_BYTES = 1 << 20
SILENCE_SAMPLES = 1 << 16
"""Per frame of silence."""
MAX_SILENCE_VALUES = 1 << 25
"""By how much silence may exceed the sound before it, lest a small file fills the memory."""


@dataclass(slots=True)
class Fault:
    """``seconds`` of a recording in all, in a number of ``places``, from second ``first`` on."""

    first: float
    seconds: float = 0.0
    places: int = 0

    def __str__(self) -> str:
        several = "" if self.places == 1 else f" in {self.places} places, the first"
        return f"{self.seconds:.2f} s{several} at {self.first:.2f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFile:
    """PyAV's ``container`` and the audio ``track`` to decode. ``sample_rate`` is 0 if the file has none;
    ``seconds`` is the length where FFmpeg knows it, ``stated`` the length in the file's header. ``faults``
    are found while it is opened and decoded."""

    name: str
    container: Any
    track: Any
    sample_rate: int
    channels: int
    seconds: float | None
    stated: float | None
    faults: dict[str, Fault] = field(default_factory=dict[str, Fault])

    def add_fault(self, kind: str, at: float, seconds: float = 0.0) -> None:
        fault = self.faults.setdefault(kind, Fault(at))
        fault.seconds += seconds
        fault.places += 1


class _Input:
    """A file for FFmpeg, which reads and seeks whatever a damaged one says."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end, self.tell = file, end, file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(max(0, min(size, READ_BYTES, self._end - self.tell())))

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError:
            return -1


@contextmanager
def open_audio(path: Path, track: int | None = None) -> Generator[AudioFile]:
    """A file and its audio track of this number, by default the first. Warns of an FFmpeg with known faults.
    Raises ``AudioError`` for a file that cannot be opened or read, also later, or has no supported audio."""
    import av
    from av.error import ArgumentError, FFmpegError

    # A release, such as 8.1.2 or n7.1-ubuntu; the faults of other builds are unknown.
    release = re.match(r"n?(\d+(?:\.\d+)*)", getattr(av, "ffmpeg_version_info", ""))
    if release and tuple(int(part) for part in release[1].split(".")) < SAFE_FFMPEG:
        safe = ".".join(map(str, SAFE_FFMPEG))
        logger.warning(
            f"PyAV comes with FFmpeg {release[1]}: before {safe}, a malicious file can make its decoders "
            "corrupt memory. Open only recordings that you trust, or run: pip install --upgrade av"
        )
    try:
        with open_regular(path) as file:
            wav_seconds, excess, end = _read_wav_header(file)
            file.seek(0)
            with av.open(_Input(file, end), options=OPEN_OPTIONS, metadata_errors="replace") as container:
                stream = _find_track(container, path, 1 if track is None else track)
                if stream.codec_context.codec.name == "flac":  # its damage is noise at full scale
                    stream.codec_context.options = {"err_detect": "crccheck+explode"}
                seconds = _track_seconds(container, stream)
                audio = AudioFile(
                    name=path.name,
                    container=container,
                    track=stream,
                    sample_rate=int(stream.rate or 0),
                    channels=int(stream.layout.nb_channels),
                    seconds=seconds,
                    stated=seconds if wav_seconds is None else wav_seconds,
                )
                if track is None and len(container.streams.audio) > 1:
                    audio.add_fault("tracks", 0)
                if excess:
                    audio.add_fault("excess", wav_seconds or 0, excess)
                yield audio
    except FFmpegError as error:
        is_unknown = isinstance(error, ArgumentError)
        reason = "damaged, or of an unsupported format" if is_unknown else error.strerror
        raise AudioError(
            "The recording cannot be read.",
            found=f"{path.name}, {path.stat().st_size} bytes: {reason}",
            expected="a complete WAV, MP3, FLAC, M4A, OGG or similar file",
            fix="play it in an audio program and export it again",
        ) from error
    except OSError as error:
        raise _open_error(path, error) from error


def _open_error(path: Path, error: OSError) -> AudioError:
    found, expected, fix = f"{path}: {error.strerror}", "an audio or video file", "check the path"
    if address := re.match(r"(\w{2,}:)/+(.*)", path.as_posix()):
        found = f"{address[1]}//{address[2]}, a web address"
        expected, fix = "a file on this computer", "download the recording and name the file"
    elif path.is_dir():
        found, fix = f"the folder {path}", "name the recording in it"
    elif str(path) == "-" or (path.exists() and not path.is_file()):
        found = "standard input (-)" if str(path) == "-" else f"{path}, a pipe or device"
        expected, fix = (
            "a file: a recording is read more than once",
            "save the recording as a file and name that",
        )
    elif not path.exists():
        found = f"no file {path}"
    return AudioError("The recording cannot be opened.", found=found, expected=expected, fix=fix)


def _find_track(container: Any, path: Path, number: int) -> Any:
    tracks = container.streams.audio
    if tracks and not 1 <= number <= len(tracks):
        raise AudioError(
            "There is no such sound track.",
            found=f"track {number}; {path.name} has {len(tracks)}",
            expected=f"a number from 1 to {len(tracks)}",
            fix="choose another --track (track in Python)",
        )
    track = tracks[number - 1] if tracks else None
    codec = track.codec_context.codec.name if track and track.codec_context else "an unknown codec"
    if track is None or codec not in CODECS.split(","):
        found = f"{len(container.streams)} tracks, none of them audio"
        if track is not None:
            found = f"audio in {codec}" + f", track {number} of {len(tracks)}" * (len(tracks) > 1)
        others = " or another --track" * (len(tracks) > 1)
        raise AudioError(
            "The file has no audio that can be read.",
            found=f"{path.name}: {found}",
            expected="WAV, MP3, AAC, FLAC, ALAC, Opus, Vorbis, AC-3, WMA or AMR audio",
            fix=f"choose a recording of speech{others}, or play it in an audio program and export it as WAV",
        )
    return track


def _track_seconds(container: Any, track: Any) -> float | None:
    """The track's length by FFmpeg; None where it does not know or estimates it from the file's size."""
    name = container.format.name
    tagged = name == "mp3" and (track.start_time or 0) > 0  # LAME's tag holds the number of frames
    if track.duration and (name in EXACT_LENGTH_FORMATS or tagged):
        return float(track.duration * track.time_base)
    if name == "matroska,webm" and len(container.streams) == 1 and container.duration:
        return (container.duration - (container.start_time or 0)) / 1e6
    return None


def _read_wav_header(file: BinaryIO) -> tuple[float | None, float, int]:
    """Seconds in a WAV's header, which FFmpeg corrects silently by the file's size; seconds of what looks
    like more sound behind its end; and the bytes to read: FFmpeg allocates what a list of texts claims."""
    stated, excess, samples, block, block_samples, rate = None, 0.0, 0, 0, 0, 0
    end = file.seek(0, 2)
    file.seek(0)
    start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None, 0.0, end
    for _ in range(MAX_WAV_CHUNKS):
        head, at = file.read(8), file.tell()
        size = int.from_bytes(head[4:], "little")
        if len(head) < 8 or (head[:4] == b"LIST" and size > end - at):
            return stated, excess, min(end, at - len(head)) if len(head) == 8 else end
        content = file.read(min(size, 20))
        if head[:4] == b"fmt " and len(content) >= 16:
            kind, _, rate, _, block = struct.unpack_from("<HHIIH", content)
            if kind in WAV_PCM:
                block_samples = 1
            elif kind in WAV_ADPCM and len(content) == 20:
                block_samples = int.from_bytes(content[18:], "little")
        elif head[:4] == b"fact":
            samples = int.from_bytes(content[:4], "little")
        file.seek(at + size + size % 2)
        if head[:4] == b"data" and stated is None and rate and 0 < size < UNKNOWN_SIZE:
            stated = (size // block * block_samples if block and block_samples else samples) / rate or None
            more = _measure_excess(file) * (stated or 0.0) / size
            excess = more if more >= MISSING_SECONDS else 0.0
            file.seek(at + size + size % 2)
    return stated, excess, end


def _measure_excess(file: BinaryIO) -> int:
    """Bytes from here to the end, if they look like sound: no tags, no other chunk, not mostly zeros."""
    start = file.tell()
    size = file.seek(0, 2) - start
    blocks = list[bytes]()
    for part in range(4):
        file.seek(start + size * part // 4)
        blocks.append(file.read(4096))
    name, length = blocks[0][:4], int.from_bytes(blocks[0][4:8], "little")
    is_chunk = name.isascii() and name.decode("latin-1").isprintable() and length + 8 <= size
    if size < 8 or name[:3] == b"ID3" or (is_chunk and name != b"RIFF"):
        return 0
    return size if b"".join(blocks).count(0) < 2 * sum(map(len, blocks)) // 3 else 0


def decode_sound(file: AudioFile) -> Iterator[Any]:
    """The track as PyAV's frames, all in the first one's format. Sound lies at its timestamp: what is missing
    there, or cannot be decoded, is silence; frames that overlap follow each other. Faults are noted in
    ``file``. Raises ``AudioError`` if most of it is missing, ``FFmpegError`` if nothing can be decoded."""
    timeline = _Timeline(file)
    for packet in timeline.demux():
        for frame in timeline.decode(packet):
            yield from timeline.lay(frame)
    yield from timeline.finish()


class _Timeline:
    """Where frames belong. By timestamps, ``origin`` is the start of the recording, ``end`` that of the last
    frame's end, ``damage`` the end of packets since then that could not be decoded,
    ``reached`` the end of other tracks."""

    def __init__(self, file: AudioFile) -> None:
        self._file = file
        self._first: Any = None
        self._converter: Any = None
        self._samples = self._silence = 0
        self._origin, self._end = 0.0, None
        self._damage: float | None = None
        self._error: Exception | None = None
        self._broke_off, self._reached = False, 0.0

    @property
    def _position(self) -> float:
        """Seconds of the recording so far."""
        return self._samples / self._first.sample_rate if self._first is not None else 0.0

    def demux(self) -> Iterator[Any]:
        """The packets of the track, the last ones empty. Reading continues after some errors."""
        from av.error import FFmpegError

        for _ in range(MAX_DEMUX_ERRORS):
            try:
                for packet in self._file.container.demux():
                    if packet.stream.index == self._file.track.index:
                        yield packet
                    elif packet.pts is not None:
                        until = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                        self._reached = max(self._reached, until)
            except FFmpegError as error:
                self._error = error
            else:
                return
        self._broke_off = True
        yield None

    def decode(self, packet: Any) -> list[Any]:
        """The frames of a packet, none if it is damaged."""
        from av.error import FFmpegError

        try:
            return self._file.track.decode(packet)
        except FFmpegError as error:
            self._error = error
        if packet is not None and packet.size:
            start = self._damage or self._end or 0.0
            if packet.pts is not None:
                start = float(packet.pts * packet.time_base)
            if self._end is None:  # the recording begins here
                track = self._file.track
                start = max(start, float((track.start_time or 0) * track.time_base))
                self._origin = self._end = start
            self._damage = start + float((packet.duration or 0) * packet.time_base)
        return []

    def lay(self, frame: Any) -> Iterator[Any]:
        """A frame, after silence where something is missing before it."""
        start: float = frame.time
        if frame.time is None:
            start = self._damage or self._end or 0.0
        self._first = self._first or frame
        if self._end is None:
            self._origin = self._end = start
        jump, late = start - self._end, start - self._origin - self._position
        by_count = self._damage is None and self._file.container.format.name in FORMATS_WITHOUT_CLOCK
        if by_count or jump > MAX_GAP_SECONDS or jump < -RESET_SECONDS:
            self._origin += late
            if jump > MAX_GAP_SECONDS:
                self._file.add_fault("clock", self._position)
        elif min(jump, late) > max(GAP_SECONDS, 0.99 * float(frame.time_base)):
            yield from self._fill(min(late, 2 * jump))  # late by more: a clock that is too slow
        seconds = frame.samples / frame.sample_rate
        self._end, self._damage = start + seconds, None
        if frame.is_corrupt:
            self._file.add_fault("damaged", self._position, seconds)
        for piece in self._convert(frame):
            self._samples += piece.samples
            yield piece

    def finish(self) -> Iterator[Any]:
        """What is missing at the end."""
        if self._first is None:
            if self._error is not None:
                raise self._error
            return
        for piece in self._convert(None):
            self._samples += piece.samples
            yield piece
        stated = self._file.stated
        if self._damage is not None:
            yield from self._fill(self._damage - self._origin - self._position)
        elif self._broke_off and stated is not None and stated - self._position <= MAX_TAIL_SECONDS:
            self._damage = stated
            yield from self._fill(stated - self._position)
        if stated is not None and stated - self._position > MISSING_SECONDS:
            self._file.add_fault("short", self._position, stated)
        container, reached = self._file.container, max(self._reached, self._origin + self._position)
        whole = (container.duration or 0) / 1e6 if container.format.name == "matroska,webm" else 0.0
        if self._reached and whole - reached > MISSING_SECONDS:
            self._file.add_fault("short", reached, whole)
        if self._silence > self._samples / 2:
            raise self._missing_error()

    def _fill(self, seconds: float) -> Iterator[Any]:
        """Silence, in the format of the first frame."""
        rate = self._first.sample_rate
        missing = round(seconds * rate)
        if missing <= 0:
            return
        self._file.add_fault("gap" if self._damage is None else "unreadable", self._position, missing / rate)
        self._silence += missing
        if 2 * self._silence - self._samples - missing > MAX_SILENCE_VALUES // self._file.channels:
            self._samples += missing
            raise self._missing_error()
        block: Any = None
        while missing:
            if block is None or missing < SILENCE_SAMPLES:
                block = _make_silence(self._first, min(missing, SILENCE_SAMPLES))
            missing -= block.samples
            self._samples += block.samples
            yield block

    def _convert(self, frame: Any) -> list[Any]:
        """A frame in the format of the first; with None, what a conversion still holds."""
        from av import AudioResampler

        kind, pieces = frame and _frame_format(frame), list[Any]()
        if self._converter is not None and kind != self._converter_input:
            pieces, self._converter = self._converter.resample(None), None
        if frame is None:
            return pieces
        wanted = _frame_format(self._first)
        if kind == wanted:
            return [*pieces, frame]
        if self._converter is None:
            self._file.add_fault("change", self._position)
            format, layout, rate = wanted
            self._converter, self._converter_input = AudioResampler(format, layout, rate), kind
        return [*pieces, *self._converter.resample(frame)]

    def _missing_error(self) -> AudioError:
        rate = self._first.sample_rate
        return AudioError(
            "Most of the recording is missing.",
            found=f"{self._file.name}: {self._silence / rate:.2f} of {self._samples / rate:.2f} s could not "
            "be read, or are missing by the file's timestamps",
            expected="a recording with sound for more than half of its length",
            fix="play it in an audio program; if it is whole there, export it as WAV",
        )


def _frame_format(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _make_silence(like: Any, samples: int) -> Any:
    """A frame of silence, converted from interleaved floats: PyAV fills no more than eight planes."""
    from av import AudioFrame, AudioResampler

    format, layout, rate = _frame_format(like)
    zeros = np.zeros((1, samples * like.layout.nb_channels), np.float32)
    frame = AudioFrame.from_ndarray(zeros, format="flt", layout=layout)
    frame.sample_rate = rate
    (silence,) = AudioResampler(format, layout, rate).resample(frame)
    silence.time_base = like.time_base
    return silence
