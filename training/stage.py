"""A stage of training that may be stopped at any minute: checkpoints, curves, and where they stand."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

CPU = torch.device("cpu")
REPORT = 20
"""Steps that one line of a curve is the mean of."""


class Stateful(Protocol):
    """A network, an optimiser, an average: anything whose state can be kept."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One stage: so many steps, of which each is decided by seed and number alone.

    A step's function draws from generators named after the step, so a resumed run equals an undisturbed one.
    """

    folder: Path
    name: str
    steps: int
    seed: int
    device: torch.device = CPU

    @property
    def checkpoint(self) -> Path:
        """What a later call goes on from."""
        return self.folder / f"{self.name}.pt"

    @property
    def curve(self) -> Path:
        """One line every ``REPORT`` steps: step, CPU-seconds so far, means of what the step reported."""
        return self.folder / f"{self.name}.csv"

    def done(self) -> int:
        """Steps in the checkpoint."""
        return int(self._read()["step"]) if self.checkpoint.exists() else 0

    def train(
        self,
        step: Callable[[int], Mapping[str, float]],
        things: Mapping[str, Stateful],
        every_seconds: float = 60.0,
    ) -> None:
        """Call ``step`` for every number not yet done; keep the state of ``things`` as it goes.

        What is lost by a stop is at most ``every_seconds`` of work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        first, spent = self._resume(things)
        started, saved = time.process_time(), time.monotonic()
        seen: dict[str, list[float]] = {}
        for index in range(first, self.steps):
            for key, value in step(index).items():
                seen.setdefault(key, []).append(float(value))
            seconds = spent + time.process_time() - started
            if (index + 1) % REPORT == 0 or index + 1 == self.steps:
                self._report(index + 1, seconds, {key: sum(v) / len(v) for key, v in seen.items()})
                seen = {}
            if time.monotonic() - saved > every_seconds or index + 1 == self.steps:
                self._save(index + 1, seconds, things)
                saved = time.monotonic()

    def state(self, thing: str) -> dict[str, Any]:
        """The kept state of one of the things."""
        return self._read()["things"][thing]

    def seconds(self) -> float:
        """CPU-seconds that the steps of the checkpoint took, all threads."""
        return float(self._read()["seconds"])

    def _resume(self, things: Mapping[str, Stateful]) -> tuple[int, float]:
        if not self.checkpoint.exists():
            return 0, 0.0
        kept = self._read()
        for name, thing in things.items():
            thing.load_state_dict(kept["things"][name])
        self._cut_curve(int(kept["step"]))
        return int(kept["step"]), float(kept["seconds"])

    def _read(self) -> dict[str, Any]:
        return torch.load(self.checkpoint, weights_only=True, map_location="cpu")

    def _save(self, step: int, seconds: float, things: Mapping[str, Stateful]) -> None:
        kept = {name: thing.state_dict() for name, thing in things.items()}
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save({"step": step, "seconds": seconds, "things": kept}, unfinished)
        unfinished.replace(self.checkpoint)

    def _report(self, step: int, seconds: float, means: Mapping[str, float]) -> None:
        row = {"step": step, "cpu_seconds": round(seconds, 1), **{k: round(v, 6) for k, v in means.items()}}
        new = not self.curve.exists()
        with self.curve.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(self.name, json.dumps(row), flush=True)

    def _cut_curve(self, step: int) -> None:
        """Lines of steps after the checkpoint will be written again."""
        if not self.curve.exists():
            return
        head, *lines = self.curve.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if int(line.split(",", 1)[0]) <= step]
        self.curve.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
