"""A stage of training: steps with checkpoints and a curve. It can be stopped at any time and resumes."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from .parallel import count_processes, is_first

CPU = torch.device("cpu")
STEPS_PER_REPORT = 20


class Stateful(Protocol):
    """A network, an optimiser or a weight average."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One stage. A step draws from generators named after its number, so a resumed run equals an
    uninterrupted one."""

    folder: Path
    name: str
    steps: int
    seed: int
    device: torch.device = CPU

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    @property
    def curve(self) -> Path:
        """CSV: step, CPU-seconds so far, and means over ``STEPS_PER_REPORT`` steps of the step's figures."""
        return self.folder / f"{self.name}.csv"

    def completed_steps(self) -> int:
        return int(self._read()["step"]) if self.checkpoint.exists() else 0

    def state(self, name: str) -> dict[str, Any]:
        """The saved state of one of the objects given to ``train``."""
        return self._read()["things"][name]

    def train(
        self,
        step: Callable[[int], Mapping[str, float]],
        objects: Mapping[str, Stateful],
        checkpoint_seconds: float = 60.0,
    ) -> None:
        """Call ``step`` for every remaining number; save the state of ``objects`` every
        ``checkpoint_seconds``. Raises ``FloatingPointError`` at a figure that is not a number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first, seconds_before = self._resume(objects)
        started, saved = time.process_time(), time.monotonic()
        figures: dict[str, list[float]] = {}
        for index in range(first, self.steps):
            for key, value in step(index).items():
                if math.isnan(value):
                    raise FloatingPointError(
                        f"{self.name}, step {index}: {key} is not a number; the checkpoint is older"
                    )
                figures.setdefault(key, []).append(float(value))
            seconds = seconds_before + (time.process_time() - started) * count_processes()
            last = index + 1 == self.steps
            if not is_first():
                continue
            if (index + 1) % STEPS_PER_REPORT == 0 or last:
                self._report(index + 1, seconds, {key: sum(v) / len(v) for key, v in figures.items()})
                figures = {}
            if time.monotonic() - saved > checkpoint_seconds or last:
                self.save(index + 1, seconds, objects)
                saved = time.monotonic()

    def _resume(self, objects: Mapping[str, Stateful]) -> tuple[int, float]:
        if not self.checkpoint.exists():
            return 0, 0.0
        checkpoint = self._read()
        for name, each in objects.items():
            each.load_state_dict(checkpoint["things"][name])
        step = int(checkpoint["step"])
        if self.curve.exists():  # later lines will be written again
            head, *lines = self.curve.read_text(encoding="utf-8").splitlines()
            lines = [line for line in lines if int(line.split(",", 1)[0]) <= step]
            self.curve.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
        return step, float(checkpoint["seconds"])

    def _read(self) -> dict[str, Any]:
        return torch.load(self.checkpoint, weights_only=True, map_location="cpu")

    def save(self, step: int, seconds: float, objects: Mapping[str, Stateful]) -> None:
        """Write the checkpoint of the first ``step`` steps, which took so many CPU-seconds."""
        states = {name: each.state_dict() for name, each in objects.items()}
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save({"step": step, "seconds": seconds, "things": states}, unfinished)
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
