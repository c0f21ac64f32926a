"""``hallo3 animate`` with four NANO segments, for tests that stop and resume it."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from PIL import Image

from hallo3.cli.main import main, parse
from hallo3.cli.request import AnimateRequest, read_request
from hallo3.pipeline import LocalRenderer
from hallo3.segments import Segment
from support.audio_samples import tone, write_wav


def read_segments(jobs: Path) -> dict[str, bytes]:
    """Finished segments' files without headers, which have the time that a segment took."""
    files = {path.name: path.read_bytes() for path in jobs.glob("*/segments/*.safetensors")}
    return {name: raw[8 + int.from_bytes(raw[:8], "little") :] for name, raw in files.items()}


class Undisturbed(NamedTuple):
    video: bytes
    segments: dict[str, bytes]


@dataclass
class Command:
    """Options by flag; what the last run printed, and indices of the segments that it started to render."""

    inputs: dict[str, str]
    capture: pytest.CaptureFixture[str] | None = None
    out: str = ""
    err: str = ""
    rendered: list[int] = field(default_factory=list[int])

    @property
    def video(self) -> Path:
        return Path(self.inputs["-o"])

    @property
    def speech(self) -> Path:
        return Path(self.inputs["--speech"])

    @property
    def jobs(self) -> Path:
        return Path(self.inputs.get("--jobs-folder", self.video.parent / "hallo3_jobs"))

    def speak(self, seconds: float) -> None:
        write_wav(self.speech, tone(16000, seconds), 16000)

    def words(self, *flags: str, **changes: object) -> list[str]:
        """``changes`` are options that have a value; None leaves one out."""
        named = {"-o" if n == "o" else f"--{n.replace('_', '-')}": value for n, value in changes.items()}
        options = {name: value for name, value in (self.inputs | named).items() if value is not None}
        return ["animate", *(str(word) for pair in options.items() for word in pair), *flags]

    def request(self, *flags: str, **changes: object) -> AnimateRequest:
        return read_request(parse(self.words(*flags, **changes))[1])

    def __call__(self, *flags: str, **changes: object) -> int:
        self.rendered.clear()
        if self.capture:
            self.capture.readouterr()
        with before_sampling(self.rendered.append):
            code = main(self.words(*flags, **changes))
        if self.capture:
            self.out, self.err = self.capture.readouterr()
        return code

    def stdout(self, *flags: str, code: int = 0, **changes: object) -> str:
        assert self(*flags, **changes) == code, self.err
        return self.out

    def stderr(self, *flags: str, code: int = 0, **changes: object) -> str:
        assert self(*flags, **changes) == code, self.err
        return self.err

    def stop(self, index: int, *flags: str, **changes: object) -> str:
        """Interrupt a run before a segment; what it reports."""

        def interrupt() -> None:
            raise KeyboardInterrupt

        with before_segment(index, interrupt):
            return self.stderr(*flags, code=1, **changes)

    def saved_segments(self) -> dict[str, bytes]:
        return read_segments(self.jobs)

    def names_of_jobs(self) -> set[str]:
        return {path.name for path in self.jobs.glob("*") if path.is_dir()}


def command_in(folder: Path, model: Path, capture: pytest.CaptureFixture[str] | None = None) -> Command:
    picture = np.random.default_rng(0).integers(0, 255, (80, 64, 3), np.uint8)
    Image.fromarray(picture).save(folder / "p.png")
    names = {"--portrait": "p.png", "--speech": "s.wav", "-o": "v.mp4"}
    inputs = {"--model": str(model)} | {flag: str(folder / name) for flag, name in names.items()}
    command = Command(inputs, capture)
    command.speak(2.2)
    return command


@contextmanager
def _before(place: Any, name: str, work: Callable[..., object]) -> Generator[None]:
    real = getattr(place, name)

    def called(*arguments: Any, **named: Any) -> Any:
        work(*arguments, **named)
        return real(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, called)
        yield


def before(place: Any, name: str, work: Callable[[], object]) -> AbstractContextManager[None]:
    """Something happens just before a function is called."""
    return _before(place, name, lambda *_, **__: work())


def before_sampling(work: Callable[[int], object]) -> AbstractContextManager[None]:
    def called(_renderer: object, _latents: object, segment: Segment, _noise: object) -> None:
        work(segment.index)

    return _before(LocalRenderer, "sample", called)


def before_segment(index: int, work: Callable[[], object]) -> AbstractContextManager[None]:
    """Call ``work`` right before a segment is sampled."""
    return before_sampling(lambda number: work() if number == index else None)


def packets(path: str | Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = next(each for each in container.streams if each.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def frames_of(path: str | Path) -> np.ndarray:
    """A video's frames as they are stored."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
