"""Audio files, opened with no more of FFmpeg than speech needs: decoders have faults."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import AudioError
from ..messages import logger

FORMATS = "wav,w64,aiff,au,caf,flac,mp3,aac,ogg,amr,ac3,eac3,mov,matroska,avi,mpegts,mpeg,asf,flv"
"""File formats, as FFmpeg names them; none of them names other files to be read."""
CODECS = (
    "mp3,mp3float,mp2,mp2float,aac,opus,libopus,vorbis,flac,alac,ac3,eac3,wmav1,wmav2,wmapro,"
    "amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,adpcm_ms,adpcm_ima_wav,pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be"
)
"""Decoders, of audio only: FFmpeg would open a video's too, to look at it."""
OPEN_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": FORMATS, "codec_whitelist": CODECS}
SAFE_FFMPEG = (8, 1, 2)
"""The first FFmpeg without the decoder faults published in 2026."""
EXACT_LENGTH_FORMATS = ("wav", "flac", "aiff", "mov,mp4,m4a,3gp,3g2,mj2")
"""Formats whose length FFmpeg knows rather than estimates."""
UNKNOWN_SIZE = 0x7FFF0000
"""WAV sizes from here on are written by programs that do not know the length in advance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFile:
    """PyAV's ``container`` and the audio ``track`` to decode. ``sample_rate`` is 0 if the file has none;
    ``seconds`` is the length where FFmpeg knows it, ``stated`` the length in the file's header."""

    container: Any
    track: Any
    sample_rate: int
    channels: int
    seconds: float | None
    stated: float | None


@contextmanager
def open_audio(path: Path) -> Generator[AudioFile]:
    """A file and its first audio track. Warns of an FFmpeg with known faults. Raises ``AudioError`` for a
    file that cannot be opened or read, also later, or has no supported audio."""
    import av
    from av.error import ArgumentError, FFmpegError

    if not path.is_file():
        raise _open_error(f"no file {path}")
    # A release, such as 8.1.2 or n7.1-ubuntu; the faults of other builds are unknown.
    release = re.match(r"n?(\d+(?:\.\d+)*)", getattr(av, "ffmpeg_version_info", ""))
    if release and tuple(int(part) for part in release[1].split(".")) < SAFE_FFMPEG:
        safe = ".".join(map(str, SAFE_FFMPEG))
        logger.warning(
            f"PyAV comes with FFmpeg {release[1]}: before {safe}, a malicious file can make its decoders "
            "corrupt memory. Open only recordings that you trust, or run: pip install --upgrade av"
        )
    try:
        with path.open("rb") as file:
            wav_seconds = _wav_header_seconds(file)
            file.seek(0)
            with av.open(file, options=OPEN_OPTIONS) as container:
                track = _find_track(container, path)
                seconds = _track_seconds(container, track)
                yield AudioFile(
                    container=container,
                    track=track,
                    sample_rate=int(track.rate or 0),
                    channels=int(track.layout.nb_channels),
                    seconds=seconds,
                    stated=seconds if wav_seconds is None else wav_seconds,
                )
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
        raise _open_error(f"{path}: {error.strerror}") from error


def _open_error(found: str) -> AudioError:
    return AudioError(
        "The recording cannot be opened.",
        found=found,
        expected="an audio or video file",
        fix="check the path",
    )


def _find_track(container: Any, path: Path) -> Any:
    track = next(iter(container.streams.audio), None)
    codec = track.codec_context.codec.name if track and track.codec_context else "an unknown codec"
    if track is None or codec not in CODECS.split(","):
        none = f"{len(container.streams)} tracks, none of them audio"
        raise AudioError(
            "The file has no audio that can be read.",
            found=f"{path.name}: {none if track is None else f'audio in {codec}'}",
            expected="WAV, MP3, AAC, FLAC, ALAC, Opus, Vorbis, AC-3, WMA or AMR audio",
            fix="choose a recording of speech, or play it in an audio program and export it as WAV",
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


def _wav_header_seconds(file: BinaryIO) -> float | None:
    """Seconds in a WAV's header, which FFmpeg corrects silently by the file's size."""
    start, byte_rate = file.read(12), 0
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return size / byte_rate if byte_rate and 0 < size < UNKNOWN_SIZE else None
        content = file.read(min(size, 16))
        if head[:4] == b"fmt ":
            byte_rate = int.from_bytes(content[8:12], "little")
        file.seek(size - len(content) + size % 2, 1)
    return None
