"""Sound files, opened with no more of FFmpeg than speech needs: files come from anywhere; decoders err."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import AudioError
from ..messages import logger

FORMATS = (
    *("wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "ogg", "amr", "ac3", "eac3"),
    *("mov", "matroska", "avi", "mpegts", "mpeg", "asf", "flv"),
)
"""Kinds of files, in FFmpeg's words; none of them names other files to be read."""
CODECS = (
    *(
        "mp3",
        "mp3float",
        "mp2",
        "mp2float",
        "aac",
        "opus",
        "libopus",
        "vorbis",
        "flac",
        "alac",
        "ac3",
        "eac3",
    ),
    *("wmav1", "wmav2", "wmapro", "amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb"),
    *("adpcm_ms", "adpcm_ima_wav", "pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8"),
    *(f"pcm_{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be")),
)
"""Decoders that may be used, of sound only: a video's pictures are not looked at."""
SAFELY = {
    "protocol_whitelist": "none",
    "format_whitelist": ",".join(FORMATS),
    "codec_whitelist": ",".join(CODECS),
}
"""FFmpeg's options for a file that nobody vouches for."""
MENDED = (8, 1, 2)
"""The first FFmpeg without the faults in decoders that were made known in 2026."""
KNOWN = ("wav", "flac", "aiff", "mov,mp4,m4a,3gp,3g2,mj2")
"""Kinds of files whose length FFmpeg knows."""
OPEN_SIZE = 0x7FFF0000
"""Sizes from here on are written into a WAV by programs that do not know how long it will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFile:
    """PyAV's ``container`` and the sound ``track`` to decode. ``seconds``: its length, where FFmpeg knows it;
    ``stated``: the length that is written in the file."""

    container: Any
    track: Any
    seconds: float | None
    stated: float | None

    @property
    def sample_rate(self) -> int:
        """Samples a second; 0 if the file says none."""
        return int(self.track.rate or 0)

    @property
    def channels(self) -> int:
        """Channels of the track."""
        return int(self.track.layout.nb_channels)


@contextmanager
def open_audio(path: Path) -> Generator[AudioFile]:
    """A file and its first sound track.

    Warns of an FFmpeg with known faults. Raises ``AudioError`` for no file, no sound, and sound of a kind
    that is not read here; FFmpeg's complaints while it is open become one, too.
    """
    import av
    from av.error import ArgumentError, FFmpegError

    if not path.is_file():
        raise _closed(f"no file {path}")
    _tell_of_faults(getattr(av, "ffmpeg_version_info", ""))
    try:
        with path.open("rb") as file:
            promised = _stated_by_wav(file)
            file.seek(0)
            with av.open(file, options=SAFELY) as container:
                track = _track(container, path)
                seconds = _seconds(container, track)
                stated = seconds if promised is None else promised
                yield AudioFile(container=container, track=track, seconds=seconds, stated=stated)
    except FFmpegError as error:
        kind = "damaged, or of a kind that is not read here"
        reason = kind if isinstance(error, ArgumentError) else error.strerror
        raise AudioError(
            "The recording cannot be read.",
            found=f"{path.name}, {path.stat().st_size} bytes: {reason}",
            expected="a complete WAV, MP3, FLAC, M4A, OGG or similar file",
            fix="play it in an audio program and export it again",
        ) from error
    except OSError as error:
        raise _closed(f"{path}: {error.strerror}") from error


def _closed(found: str) -> AudioError:
    return AudioError(
        "The recording cannot be opened.",
        found=found,
        expected="an audio or video file",
        fix="check the path",
    )


def _track(container: Any, path: Path) -> Any:
    if not container.streams.audio:
        raise AudioError(
            "The file has no sound.",
            found=f"{path.name} with {len(container.streams)} other tracks",
            expected="at least one audio track",
            fix="choose a recording of speech",
        )
    track = container.streams.audio[0]
    codec = track.codec_context.codec.name if track.codec_context else "an unknown form"
    if codec not in CODECS:
        raise AudioError(
            "The recording is stored in a way that is not read here.",
            found=f"{path.name}: sound in {codec}",
            expected="WAV, MP3, AAC, FLAC, ALAC, Opus, Vorbis, AC-3, WMA or AMR sound",
            fix="play it in an audio program and export it as WAV",
        )
    return track


def _seconds(container: Any, track: Any) -> float | None:
    """The track's length by FFmpeg; None where it does not know, or guesses by the file's size."""
    kind = container.format.name
    tagged = kind == "mp3" and (track.start_time or 0) > 0  # LAME's tag: it holds the number of frames
    if track.duration and (kind in KNOWN or tagged):
        return float(track.duration * track.time_base)
    if kind == "matroska,webm" and len(container.streams) == 1 and container.duration:
        return (container.duration - (container.start_time or 0)) / 1e6
    return None


def _stated_by_wav(file: BinaryIO) -> float | None:
    """Seconds that a WAV's header states, which FFmpeg corrects by the file's size without a word."""
    start, pace = file.read(12), 0
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return size / pace if pace and 0 < size < OPEN_SIZE else None
        taken = file.read(min(size, 16))
        if head[:4] == b"fmt ":
            pace = int.from_bytes(taken[8:12], "little")
        file.seek(size - len(taken) + size % 2, 1)
    return None


def _tell_of_faults(version: str) -> None:
    """Warns of an FFmpeg that is too old, by its name: ``8.1.2``, ``n7.1-ubuntu``; others are unknown."""
    found = re.match(r"n?(\d+(?:\.\d+)*)", version)
    if found and tuple(int(part) for part in found[1].split(".")) < MENDED:
        wanted = ".".join(str(part) for part in MENDED)
        logger.warning(
            f"PyAV brings FFmpeg {found[1]}: before {wanted}, a prepared file can make its decoders write "
            "where they must not. Open only recordings that you trust, or run: pip install --upgrade av"
        )
