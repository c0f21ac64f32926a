"""A segment's time, put together from parts, on a clock that counts what is computed."""

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hallo3.cli.main import main
from hallo3.config import BUILT_IN, HALLO3
from hallo3.jobs.estimate import THROUGHPUT_FILENAME, ModelSpeed
from hallo3.model.kernels.eager import PLAIN
from hallo3.progress import no_progress
from hallo3.quantization import PRECISIONS
from hallo3.speed import model
from hallo3.speed.model import ModelMeasurement, time_in_turn
from support.audio_samples import tone, write_wav

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLOP: dict[Any, Any] = {**flop_registry, FLASH: lambda q, k, *_, **__: 4 * q.numel() * k.shape[2]}


class SimulatedClock(TorchDispatchMode):
    """A device that computes 100 GFLOP/s, moves 10 GB/s and starts an operation in 2 microseconds."""

    now = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options, kind = kwargs or {}, func.overloadpacket
        if kind not in FLOP:
            with self:  # in inference mode, operations made of others arrive whole
                if (made := func.decompose(*args, **options)) is not NotImplemented:
                    return made
        result = func(*args, **options)
        moved = sum(each.nbytes for each in tree_leaves((args, result)) if isinstance(each, torch.Tensor))
        flop = FLOP[kind](*args, **options, out_val=result) if kind in FLOP else 0
        self.now += 2e-6 + flop / 1e11 + (moved / 1e10 if not func.is_view else 0.0)
        return result


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedClock]:
    simulated = SimulatedClock()
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: simulated.now)
    monkeypatch.setattr(model, "MAX_ROUNDS", 1)
    with simulated:
        yield simulated


@torch.inference_mode()
def measure() -> ModelSpeed:
    measurement = ModelMeasurement(BUILT_IN, PRECISIONS["fp32"], CPU, PLAIN, 1e15)
    return measurement.measure(1e9, no_progress, 1e11)


@pytest.mark.any_message
def test_a_run_of_the_built_in_model_takes_as_long_as_was_measured(
    clock: SimulatedClock, tmp_path: Path
) -> None:
    """Three steps with both branches, one with one; two whole segments."""
    expected = measure().segment_time(guided=3, unguided=1, pixels=31 * 64 * 64)
    assert expected is not None
    assert expected.error < 0.2
    write_wav(tmp_path / "speech.wav", tone(16000, 62 / 25), 16000)
    files = "--portrait", REPOSITORY / "samples/portrait.png", "--speech", tmp_path / "speech.wav"
    words = ["--steps", "4", "--guidance", "2", "--approximate", "guidance-middle"]
    assert main(["animate", *map(str, files), *words, "-o", str(tmp_path / "a.mp4")]) == 0
    (entry,) = json.loads((tmp_path / "hallo3_jobs" / THROUGHPUT_FILENAME).read_text()).values()
    assert entry["seconds"] == pytest.approx(expected.seconds, rel=0.05)
    assert clock.now > 2 * entry["seconds"]


@torch.inference_mode()
@pytest.mark.parametrize("rate", [1e12, 1e10])
def test_a_piece_tells_the_time_of_the_whole(
    clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """At the released size, on meta. The least of it are the operations that ``counts`` counts, and the
    ledger's of a decode and an encode."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    monkeypatch.setattr(model, "Layers", partial(model.Layers, attention=attend))
    monkeypatch.setattr(model, "sdpa", attend)
    monkeypatch.setattr(model, "encode_segment", no_progress)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)
    measurement = ModelMeasurement(HALLO3, PRECISIONS["bf16"], torch.device("meta"), PLAIN, rate)
    speed = measurement.measure(1e9, no_progress, 1e11)
    assert speed.error == model.SCALED_ERROR
    for seconds, flop in ((speed.both, 7.75e14), (speed.single, 7.75e14 / 2), (speed.beside, 3.25e14)):
        assert 1 <= seconds / (flop / 1e11) < 1 + speed.error
    assert clock.now < 20


@torch.inference_mode()
def test_streamed_blocks_are_timed(clock: SimulatedClock) -> None:
    """As a run streams them; without a GPU there is nothing to copy."""
    measurement = ModelMeasurement(BUILT_IN, PRECISIONS["fp32"], CPU, PLAIN, 1e15)
    assert not measurement.streams
    measurement.streams = True
    speed = measurement.measure(1e9, no_progress, 1e11)
    assert speed.streamed == pytest.approx(speed.both, rel=0.02)
    assert clock.now > 0


class Disturbed:
    """A function that takes these seconds, in turn."""

    def __init__(self, clock: SimulatedClock, *seconds: float) -> None:
        self._clock, self._seconds, self.runs = clock, seconds, 0

    def __call__(self) -> None:
        self._clock.now += self._seconds[min(self.runs, len(self._seconds) - 1)]
        self.runs += 1


@pytest.mark.parametrize(
    ("seconds", "limit", "runs", "mean", "spread"),
    [
        ((5.0, 1.0), 1000.0, 15, 1.0, 0.0),  # the first warms up
        ((5.0, 1.0), 1.0, 1, 5.0, 0.0),  # there is no time for a second
        ((1.0, 1.0, 3.0, 1.0), 6.5, 3, 2.0, 1.0),
    ],
)
def test_the_mean_of_several_runs_and_its_error(
    clock: SimulatedClock,
    monkeypatch: pytest.MonkeyPatch,
    seconds: tuple[float, ...],
    limit: float,
    runs: int,
    mean: float,
    spread: float,
) -> None:
    monkeypatch.setattr(model, "MAX_ROUNDS", 15)
    work = Disturbed(clock, *seconds)
    timing = time_in_turn({"work": work}, limit, CPU, no_progress)["work"]
    assert (work.runs, timing.seconds, timing.spread) == (runs, pytest.approx(mean), pytest.approx(spread))
