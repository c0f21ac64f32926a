"""What ``hallo3 batch`` shows: a line per row that ends, and on a terminal one per worker and one for all,
with the time left; or events as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

from tqdm import tqdm

from ..fleet.dispatch import DONE, FINAL, Dispatcher
from ..fleet.workers import BEGAN, DIED, ENDED, NOTE, PROGRESS, Event

QUIET_SECONDS = 30.0
"""Between two lines with the time left where no terminal shows it."""


def list_rows(numbers: Iterable[int]) -> str:
    """Sorted numbers as ``3, 5-9``."""
    spans = list[list[int]]()
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in spans)


class BatchView:
    """``total`` rows are in the table. ``finish`` returns the exit code."""

    def __init__(self, total: int, *, as_json: bool) -> None:
        self._total, self._as_json, self._ended = total, as_json, Counter[str]()
        self._bars, self._summary = dict[str, Any](), None
        self._started = self._said = time.monotonic()
        self._told, self._notes, self._row = set[tuple[int, str]](), dict[str, set[int]](), 0
        self._shares, self._cost, self._finished, self._skipped = dict[str, float](), 0.0, False, 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._as_json:
            self._summary = self._open_bar()
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (*self._bars.values(), self._summary):
            if bar is not None:
                bar.close()
        if not self._finished and not self._as_json:
            self._write_note(f"{self._ended[DONE]} rows are finished; the same command resumes", "")

    def skip(self) -> None:
        """A row that was done before."""
        self._ended[DONE] += 1
        self._skipped += 1

    def end(self, number: int, kind: str, text: str) -> None:
        """A row's end, whatever it is."""
        self._ended[kind] += 1
        self._say(number, kind, text)

    def note(self, text: str, number: int | None = None) -> None:
        """A message about a row, by default the one that began last. It is said once; :meth:`finish` lists
        the rows that had the same."""
        rows = self._notes.setdefault(text, set())
        rows.add(number := self._row if number is None else number)
        if len(rows) == 1:
            self._write_note(text, f"row {number}: " * bool(number))

    def _write_note(self, text: str, about: str) -> None:
        tqdm.write(f"note: {about}{text}", file=sys.stderr)

    def show(self, event: Event, dispatcher: Dispatcher) -> None:
        state = event.state
        if state is None:
            if event.kind == NOTE:
                self.note(event.text, 0)
            return
        number = state.task.number
        if event.kind in (ENDED, DIED):
            self._shares.pop(event.worker, None)
            if state.kind in FINAL:
                self._cost += state.task.cost
                self.end(number, state.kind, state.message)
            else:
                self._say(number, state.kind, state.message)
            self._draw_worker(event.worker, "" if event.kind == ENDED else None)
        elif event.kind == NOTE:
            self.note(event.text, number)
        elif event.kind in (BEGAN, PROGRESS):
            self._row = number
            self._shares[event.worker] = event.share * state.task.cost
            self._draw_worker(event.worker, f"row {number}, {100 * event.share:.0f} %")
            if self._as_json:
                shown = {"share": round(event.share, 4)} if event.kind == PROGRESS else {}
                print(
                    json.dumps({"event": event.kind, "row": number, "worker": event.worker} | shown),
                    flush=True,
                )
        self._draw_total(dispatcher)

    def finish(self) -> int:
        """Say how many rows are videos; 0 if all are, 1 if some, 2 if none."""
        self._finished = True
        for text, rows in self._notes.items():
            if len(rows) > 1:
                self._write_note(text, f"rows {list_rows(sorted(rows - {0}))}: ")
        done, failed = self._ended[DONE], sum(self._ended.values()) - self._ended[DONE]
        if self._as_json:
            print(json.dumps({"event": "over", "done": done, "failed": failed}), flush=True)
        else:
            before = f"; {self._skipped} were finished before" * bool(self._skipped)
            others = f", {failed} are not" * bool(failed)
            tqdm.write(f"{done} of {done + failed} rows are fine{others}{before}", file=sys.stdout)
        return 0 if not failed else 1 if done else 2

    def _say(self, number: int, kind: str, text: str) -> None:
        if self._as_json:
            print(json.dumps({"event": kind, "row": number, "text": text}), flush=True)
            return
        later = "" if kind in FINAL else "\n  It is tried again later."
        headline = text.partition("\n")[0]  # below it there are times
        if (number, headline) in self._told and later:
            return  # another run has it in hand, still
        self._told.add((number, headline))
        tqdm.write(f"row {number} of {self._total}: {text}{later}", file=sys.stdout)
        sys.stdout.flush()

    def _draw_worker(self, worker: str, text: str | None) -> None:
        if self._summary is None:
            return
        if text is None:
            if (bar := self._bars.pop(worker, None)) is not None:
                bar.close()
            return
        if worker not in self._bars:
            self._bars[worker] = self._open_bar()
        self._bars[worker].set_description_str(f"{worker}: {text or 'waits'}")

    def _draw_total(self, dispatcher: Dispatcher) -> None:
        now, done = time.monotonic(), self._cost + sum(self._shares.values())
        if self._as_json or (self._summary is None and (not done or now - self._said < QUIET_SECONDS)):
            return
        seconds = (now - self._started) * (dispatcher.cost / done - 1) if done else 0.0
        left = f", {tqdm.format_interval(max(0.0, seconds))} left" if done else ""
        text, self._said = f"{sum(self._ended.values())} of {self._total} rows{left}", now
        if self._summary is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._summary.set_description_str(text)

    def _open_bar(self) -> Any:
        return tqdm(total=0, bar_format="{desc}", leave=False, file=sys.stderr)
