"""Video out: frames as they come, sound beside them, an ordinary MP4 at the end."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import OutputError

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
BT709, LIMITED = 1, 1


class VideoWriter:
    """An H.264 video with the speech's own sound, written as frames arrive.

    Leaving the ``with`` block puts the finished file under its name. When the block is left by an error
    or Ctrl-C, what was rendered so far is closed properly and kept as ``NAME.partial.mp4``.
    """

    def __init__(self, path: Path, *, width: int, height: int, fps: int, sound: Path) -> None:
        self.path, self.size, self.fps = path, (width, height), fps
        self.partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self.frames = 0
        self._sound_path = sound

    def __enter__(self) -> Self:
        import av

        try:
            self._file = self.partial.open("wb")
        except OSError as error:
            raise _unwritable(self.partial, error) from error
        try:
            self._container: Any = av.open(self._file, "w", format="mp4")
            self._picture = _picture_stream(self._container, *self.size, self.fps)
            self._sound = _Sound(self._sound_path, self._container)
        except BaseException:
            self._file.close()
            self.partial.unlink()
            raise
        return self

    def write(self, frames: Tensor) -> None:
        """Append frames [F, 3, H, W] in 0..1 as trunc(255 x), with the sound that belongs to them."""
        import av

        pixels = to_uint8(frames).permute(0, 2, 3, 1).cpu().numpy()
        try:
            for picture in pixels:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = self.frames, Fraction(1, self.fps)
                self._container.mux(self._picture.encode(_to_bt709(frame)))
                self.frames += 1
            self._sound.write_until(Fraction(self.frames, self.fps))
        except OSError as error:
            raise _unwritable(self.partial, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.frames:
                self._container.mux(self._picture.encode(None))
                self._sound.finish()
            self._container.close()
            self._sound.close()
            self._file.close()
            if kind is None:
                self.partial.replace(self.path)
            elif not self.frames:
                self.partial.unlink()
        except OSError as failure:
            raise _unwritable(self.path, failure) from failure


class _Sound:
    """The recording, decoded again in step with the video: never more than a moment of it in memory.

    Cut to full scale, as any player would: far beyond it the encoder fails or takes the process with it.
    """

    def __init__(self, path: Path, target: Any) -> None:
        import av

        self._file = path.open("rb")
        self._source: Any = av.open(self._file, options={"protocol_whitelist": "none"})
        track = self._source.streams.audio[0]
        rate = int(track.rate) if int(track.rate) in AAC_RATES else 48000
        layout = "mono" if track.channels == 1 else "stereo"
        self._stream = target.add_stream("aac", rate=rate, layout=layout)
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        self._target, self._rate, self._written = target, rate, 0
        self._ahead = self._pieces(track)
        self._waiting: Any = None

    def write_until(self, time: Fraction) -> None:
        """Encode sound up to a time in seconds, cut to the sample."""
        import av

        limit = int(time * self._rate)
        while self._written < limit:
            samples = self._waiting if self._waiting is not None else next(self._ahead, None)
            if samples is None:
                return
            now, later = samples[:, : limit - self._written], samples[:, limit - self._written :]
            self._waiting = later if later.shape[1] else None
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(now.clip(-1, 1)), format="fltp", layout=self._stream.layout
            )
            frame.sample_rate, frame.pts = self._rate, self._written
            frame.time_base = Fraction(1, self._rate)
            self._written += now.shape[1]
            self._target.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Hand over what the encoder still holds."""
        self._target.mux(self._stream.encode(None))

    def close(self) -> None:
        """Close the recording."""
        self._source.close()
        self._file.close()

    def _pieces(self, track: Any) -> Iterator[Any]:
        for frame in self._source.decode(track):
            for piece in self._resampler.resample(frame):
                yield piece.to_ndarray()
        for piece in self._resampler.resample(None):
            yield piece.to_ndarray()


def to_uint8(frames: Tensor) -> Tensor:
    """0..1 -> 0..255 by truncation, as the original writes (facts 9)."""
    return (frames * 255).to(torch.uint8)


def _picture_stream(container: Any, width: int, height: int, fps: int) -> Any:
    stream = container.add_stream("libx264", rate=fps, options={"crf": "17", "preset": "medium"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = LIMITED
    return stream


def _to_bt709(frame: Any) -> Any:
    return frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        "The video cannot be written.",
        found=f"{path}: {error.strerror or error}",
        expected="a folder with room that you may write to",
        do="free some space or choose another place with -o",
    )
