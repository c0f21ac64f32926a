"""Commands run in children that start at once, to be killed at any moment.

A forked child of this process starts without the seconds that imports take. The parent computes on one
thread only, so that none is lost on the way.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from hallo3.cli.main import main
from hallo3.pipeline import LocalRenderer

DRAWN = "drawn.log"


def run_child(work: Callable[[], int], seconds: float | None) -> int | None:
    """Do the work in a child; its exit code, or None if it was killed after so many seconds."""
    child = os.fork()
    if not child:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    begun = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if seconds is not None and time.monotonic() - begun >= seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)


def animate(arguments: list[str], log: Path) -> Callable[[], int]:
    """``hallo3 animate`` that notes every segment it begins to render."""

    def work() -> int:
        real = LocalRenderer.sample

        def noted(self: LocalRenderer, latents, segment, noise):
            with log.open("a") as file:
                file.write(f"{segment.index}\n")
            return real(self, latents, segment, noise)

        sink = io.StringIO()
        try:
            LocalRenderer.sample = noted
            with contextlib.redirect_stderr(sink), contextlib.redirect_stdout(sink):
                code = main(["animate", *arguments])
        finally:
            LocalRenderer.sample = real
        if code:
            os.write(2, sink.getvalue()[-2000:].encode())
        return code

    return work


def drawn(log: Path) -> list[int]:
    """Segments that were begun, in order."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def committed(jobs: Path) -> dict[str, bytes]:
    """Every finished segment's file."""
    return {path.name: path.read_bytes() for path in jobs.glob("*/segments/*.safetensors")}


def kill_often(model: str, portrait: str, speech: str, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill a run again and again at random moments until it has been killed so often.

    Finished segments are never lost, changed or rendered again, and every video that is reached equals the
    undisturbed one. What happened, in numbers.
    """
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    common = ["--model", model, "--portrait", portrait, "--speech", speech, "--steps", "2"]
    wanted, log = folder / "wanted", folder / DRAWN
    wanted.mkdir()
    assert animate([*common, "-o", str(folder / "warm.mp4")], folder / "warm.log")() == 0
    begun = time.monotonic()
    assert run_child(animate([*common, "-o", str(wanted / "v.mp4"), "--fresh"], log), None) == 0
    length = time.monotonic() - begun
    total, truth = len(drawn(log)), notes(committed(wanted / "hallo3_jobs"))
    draw, done, videos, repeated, longest = random.Random(seed), 0, 0, 0, 0
    while done < kills:
        work = folder / f"video {videos}"
        work.mkdir()
        jobs, output = work / "hallo3_jobs", work / "v.mp4"
        while done < kills:
            before = len(committed(jobs))
            log.unlink(missing_ok=True)
            code = run_child(animate([*common, "-o", str(output)], log), draw.uniform(0, 1.1 * length))
            found = notes(committed(jobs))
            assert found == {name: truth[name] for name in sorted(truth)[: len(found)]}
            assert len(found) >= before
            assert drawn(log) == list(range(before, before + len(drawn(log))))
            assert len(found) >= before + len(drawn(log)) - 1
            done += code is None
            repeated += before + len(drawn(log)) - len(found)
            longest = max(longest, before + len(drawn(log)) - len(found))
            assert code in (None, 0)
            if code == 0:
                break
            assert not output.exists() or output.read_bytes() == (wanted / "v.mp4").read_bytes()
        if code == 0:
            assert output.read_bytes() == (wanted / "v.mp4").read_bytes()
            assert [path.name for path in sorted(work.iterdir())] == ["hallo3_jobs", "v.mp4"]
            videos += 1
    return {"kills": done, "videos": videos, "segments": total, "begun again": repeated, "at most": longest}


def notes(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files without their headers: how long a segment took differs from run to run."""
    return {name: raw[8 + int.from_bytes(raw[:8], "little") :] for name, raw in files.items()}


if __name__ == "__main__":
    MODEL, PORTRAIT, SPEECH, FOLDER, KILLS, SEED = sys.argv[1:]
    print(kill_often(MODEL, PORTRAIT, SPEECH, Path(FOLDER), int(KILLS), int(SEED)))
