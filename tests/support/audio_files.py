"""Audio and video files, well-formed and malformed."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SIDE = 64


def wav(
    data: bytes = b"", *, rate: int = 16000, channels: int = 1, bits: int = 16, kind: int = 1, size: int = -1
) -> bytes:
    """A WAV file with any values in its header; ``size`` is the declared size of its content."""
    width = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    declared = len(data) if size < 0 else size
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", declared) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def encode_audio(
    path: Path, samples: np.ndarray, rate: int, codec: str, *, start: float = 0, gap: float = 0, **more: Any
) -> Path:
    """Encode samples [channels, n] with one of FFmpeg's encoders; timestamps begin at ``start`` s and jump
    by ``gap`` s after the first. ``more`` is the container's."""
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", **more) as container:
        track: Any = container.add_stream(codec, rate=rate, layout=layout)
        size = track.codec_context.frame_size or 960
        cutter = av.AudioResampler(format=track.format.name, layout=layout, rate=rate, frame_size=size)
        whole = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        whole.sample_rate, whole.time_base, whole.pts = rate, Fraction(1, rate), 0
        done = 0
        for frame in (*cutter.resample(whole), *cutter.resample(None)):
            frame.time_base = Fraction(1, rate)
            frame.pts = done + int(start * rate) + (int(gap * rate) if done >= rate else 0)
            done += frame.samples
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def video(path: Path, codec: str, sound: str | None, seconds: int = 1, pixels: str = "yuv420p") -> Path:
    """Grey frames, with a silent audio track if ``sound`` names its codec."""
    with av.open(str(path), "w") as container:
        track: Any = container.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt = SIDE, SIDE, pixels
        audio: Any = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for number in range(25 * seconds):
            frame = av.VideoFrame(SIDE, SIDE, pixels)
            frame.pts = number
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        if audio is not None:
            size = audio.codec_context.frame_size or 960
            for start in range(0, 48000 * seconds, size):
                frame = av.AudioFrame(audio.format.name, "mono", size)
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
                frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path
