"""Speech heard in pieces is what it is when heard whole, after any interruption, in flat memory."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import REPOSITORY
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.config import SPEECH_ENCODERS, SegmentConfig
from hallo3.errors import OutputError
from hallo3.noise import make_generator
from hallo3.segments import SegmentPlan, plan_segments
from hallo3.speech.array_file import ArrayFile, write_array_file
from hallo3.speech.chunked import Moments, Pieces, Watch, encode_streamed, stretched, unwatched
from hallo3.speech.features import Speech
from hallo3.speech.wav2vec2 import Wav2Vec2Parts, build_wav2vec2, encode_waveform, split_wav2vec2

CPU = torch.device("cpu")
SEGMENT = SegmentConfig(frames=17, height=32, width=32)
SMALL = Pieces(conv_frames=7, frames=13, scores=500)


@cache
def network(size: str) -> nn.Module:
    built = build_wav2vec2(SPEECH_ENCODERS[size])
    built.load_state_dict(make_random_state(built, f"7|{size}"), assign=True)
    return built.eval()


def signal(samples: int) -> Tensor:
    return torch.from_numpy(make_generator("heard").standard_normal(samples, dtype="float32")) * 0.1 + 0.02


@cache
@torch.inference_mode()
def whole(size: str, samples: int) -> Tensor:
    return encode_waveform(network(size), signal(samples), plan_segments(samples, SEGMENT), CPU)


class Heard:
    """One recording that is heard in pieces, in a folder."""

    def __init__(self, size: str, samples: int, folder: Path) -> None:
        self.anatomy: Wav2Vec2Parts = split_wav2vec2(network(size))
        self.plan: SegmentPlan = plan_segments(samples, SEGMENT)
        self.samples = write_array_file(folder / "signal.f32", signal(samples)[:, None].split(5000), 1)
        self.folder = folder / "heard"
        self.wanted = whole(size, samples)

    def difference(self, watch: Watch = unwatched, pieces: Pieces | None = None) -> float:
        """The largest from what is heard at once; nothing but the layers may be left."""
        read = encode_streamed(self.anatomy, self.samples, self.plan, CPU, self.folder, watch, pieces)
        names = [f"layer_{index:02}.f32" for index in range(len(self.anatomy.layers))]
        assert sorted(path.name for path in self.folder.iterdir()) == names
        found = read(range(self.plan.padded))
        assert found.shape == self.wanted.shape
        assert found.dtype == torch.float32
        assert torch.equal(read(range(3, 9)), found[3:9])
        return float((found - self.wanted).abs().max())

    def unharmed(self) -> bool:
        """No file of a final name is half written, and no unfinished one is left."""
        rows, width = self.plan.padded, self.anatomy.width
        layers = list(self.folder.glob("layer_??.f32"))
        return not list(self.folder.glob("*.unfinished")) and all(
            ArrayFile(path, rows, width).complete for path in layers
        )


@pytest.mark.parametrize("size", ["nano", "tiny"])
@pytest.mark.parametrize("samples", [640, 641, 17 * 640, 52800, 70 * 16000 + 1])
@pytest.mark.parametrize("small", [True, False])
def test_pieces_are_the_whole(tmp_path: Path, size: str, samples: int, small: bool) -> None:
    long = Pieces(conv_frames=101, frames=103, scores=300_000)
    pieces = (SMALL if samples < 10**6 else long) if small else None
    assert Heard(size, samples, tmp_path).difference(pieces=pieces) <= 1e-5


def test_segments_read_from_the_files(tmp_path: Path) -> None:
    heard = Heard("nano", 24000, tmp_path)
    read = encode_streamed(heard.anatomy, heard.samples, heard.plan, CPU, heard.folder)
    held = Speech(lambda frames: heard.wanted[frames[0] : frames[-1] + 1], heard.plan, 5)
    for segment in heard.plan:
        windows = Speech(read, heard.plan, 5).segment(segment.index)
        assert torch.allclose(windows, held.segment(segment.index), atol=1e-5, rtol=0)


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    heard = Heard("nano", 52800, tmp_path)
    told: list[tuple[int, int]] = []
    for _ in range(2):
        told.clear()
        heard.difference(lambda *count: told.append(count), SMALL)
        done = [count for count, _ in told]
        assert done == sorted(done)
        assert {total for _, total in told} == {done[-1]}
    assert len(told) == 1


def test_an_interruption_leaves_nothing_half_and_is_gone_on_with(tmp_path: Path) -> None:
    heard = Heard("tiny", 20000, tmp_path)
    reached: list[int] = []
    starts: list[int] = []

    def stop_later(done: int, total: int) -> None:
        reached.append(done)
        if len(reached) > 14 and done < total:
            raise KeyboardInterrupt

    for _ in range(100):
        reached.clear()
        try:
            difference = heard.difference(stop_later, Pieces(conv_frames=1000, frames=13, scores=500))
            break
        except KeyboardInterrupt:
            assert heard.unharmed()
            starts.append(reached[0])
    else:
        pytest.fail("never finished")
    assert difference <= 1e-5
    assert starts == sorted(starts)
    assert len(set(starts)) == len(heard.anatomy.layers)


def test_layers_that_are_there_are_not_computed_again(tmp_path: Path) -> None:
    heard = Heard("tiny", 20000, tmp_path)
    heard.difference()
    heard.samples.remove()  # whoever listens again from the beginning fails
    assert heard.difference() <= 1e-5
    last = heard.folder / "layer_02.f32"
    written = {path: path.stat().st_mtime_ns for path in heard.folder.iterdir()}
    last.write_bytes(last.read_bytes()[:-1])
    assert heard.difference(pieces=SMALL) <= 1e-5
    kept = {path for path, time in written.items() if path.stat().st_mtime_ns == time}
    assert kept == written.keys() - {last}
    (heard.folder / "layer_00.f32").unlink()
    with pytest.raises(OutputError, match=r"signal\.f32: missing"):
        heard.difference()


def test_a_layer_that_is_cut_later_is_told(tmp_path: Path) -> None:
    heard = Heard("nano", 20000, tmp_path)
    read = encode_streamed(heard.anatomy, heard.samples, heard.plan, CPU, heard.folder)
    path = heard.folder / "layer_01.f32"
    path.write_bytes(path.read_bytes()[:-4])
    read(range(5))
    with pytest.raises(OutputError, match="layer_01"):
        read(range(30, heard.plan.padded))


@pytest.mark.parametrize(
    ("rows", "frames"), [(179_999, 90_000), (180_003, 90_014), (34, 34), (50, 1), (1, 9)]
)
def test_stretching_an_hour_is_the_whole_s_arithmetic(rows: int, frames: int) -> None:
    content = torch.from_numpy(make_generator("rows").standard_normal((rows, 2), dtype="float32"))

    class Held:
        rows = len(content)

        def read(self, start: int, stop: int) -> Tensor:
            return content[start:stop]

    wanted = F.interpolate(content.T[None], size=frames, mode="linear", align_corners=True)[0].T
    pieces = [stretched(Held(), frames, start, min(start + 997, frames)) for start in range(0, frames, 997)]
    assert torch.allclose(torch.cat(pieces), wanted, atol=1e-6, rtol=0)


def test_moments_do_not_depend_on_the_pieces() -> None:
    values = 1000 + signal(10007).reshape(1, -1).repeat(2, 1)
    moments = Moments()
    for piece in values.split(613, dim=1):
        moments.add(piece)
    assert torch.allclose(moments.mean, values.double().mean(dim=1), rtol=1e-8)
    assert torch.allclose(moments.variance, values.double().var(dim=1, correction=0), rtol=1e-4)


PEAK = """
import json, sys, time
from pathlib import Path
import torch
from hallo3.speech.wav2vec2 import split_wav2vec2
from hallo3.speech.wav2vec2 import build_wav2vec2
from hallo3.speech.array_file import write_array_file
from hallo3.speech.chunked import encode_streamed
from hallo3.config import SegmentConfig
from hallo3.config import SPEECH_ENCODERS
from hallo3.checkpoints.random_weights import make_random_state
from hallo3.segments import plan_segments
size, seconds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
network = build_wav2vec2(SPEECH_ENCODERS[size])
network.load_state_dict(make_random_state(network, size), assign=True)
anatomy = split_wav2vec2(network.eval())
samples = write_array_file(folder / "signal", (torch.randn(16000, 1) for _ in range(seconds)), 1)
Path("/proc/self/clear_refs").write_text("5")
started, last, longest = time.perf_counter(), time.perf_counter(), 0.0
def watch(done, total):
    global last, longest
    now = time.perf_counter()
    longest, last = max(longest, now - last), now
plan = plan_segments(samples.rows, SegmentConfig())
encode_streamed(anatomy, samples, plan, torch.device("cpu"), folder / "heard", watch)(range(49))
rows = Path("/proc/self/status").read_text().splitlines()
peak = next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmHWM"))
print(json.dumps({"peak_mb": peak, "seconds": time.perf_counter() - started, "longest_wait": longest}))
"""


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's clear_refs")
@pytest.mark.parametrize(("size", "limit_mb"), [("nano", 32), ("hallo3", 50)])
def test_memory_does_not_grow_with_the_recording(tmp_path: Path, size: str, limit_mb: int) -> None:
    peaks: list[float] = []
    for seconds in (60, 600):
        words = [sys.executable, "-c", PEAK, size, str(seconds), str(tmp_path / str(seconds))]
        said = subprocess.run(words, check=True, cwd=REPOSITORY, capture_output=True, timeout=7200)
        figures = json.loads(said.stdout)
        print(size, seconds, figures)  # noqa: T201
        peaks.append(figures["peak_mb"])
    assert peaks[1] - peaks[0] <= limit_mb
