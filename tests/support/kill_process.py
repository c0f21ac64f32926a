"""``hallo3 animate`` in forked children that are killed at random moments; see :func:`run_kills`.

A forked child starts without the seconds that imports take. The parent computes on one thread, so that the
children lose none.
"""

import io
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from tqdm import tqdm

from hallo3.cli.main import main
from support.own_process import run_alone
from support.resume_runs import before_sampling, command_in, read_segments


def run_kills(folder: Path, model: Path, *, kills: int, seed: int, seconds: float = 2.9) -> dict[str, int]:
    """:func:`kill_often` in a process of its own, on a small picture and short sound in ``folder``."""
    command_in(folder, model).speak(seconds)
    call = f"kill_often({str(model)!r}, {str(folder)!r}, {kills}, {seed})"
    limit, env = 60 + 15 * kills, {"OMP_NUM_THREADS": "1", "HOME": str(folder)}
    return run_alone("support.kill_process", call, limit, **env)


def run_child(work: Callable[[], int], seconds: float | None) -> int | None:
    """The exit code of ``work`` in a child; None if it was killed after ``seconds``."""
    child = os.fork()
    if not child:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    started = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if seconds is not None and time.monotonic() - started >= seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)


def animate(arguments: list[str], log: Path) -> Callable[[], int]:
    """``hallo3 animate`` that logs the index of every segment it starts to render."""

    def note(index: int) -> None:
        with log.open("a") as file:
            file.write(f"{index}\n")

    def work() -> int:
        sink = io.StringIO()
        with before_sampling(note), redirect_stderr(sink), redirect_stdout(sink):
            code = main(["animate", *arguments])
        if code:
            os.write(2, sink.getvalue()[-2000:].encode())
        return code

    return work


def read_log(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def kill_often(model: str, inputs: str, kills: int, seed: int) -> dict[str, int]:
    """Kill a run at random moments until it has been killed ``kills`` times; returns counts.

    Finished segments are never lost, changed or rendered again, and every video that is reached equals the
    undisturbed one.
    """
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    folder, files = Path(inputs), ["--portrait", f"{inputs}/p.png", "--speech", f"{inputs}/s.wav"]
    common = ["--model", model, *files, "--steps", "2"]
    undisturbed, log = folder / "undisturbed", folder / "segments.log"
    undisturbed.mkdir()
    assert animate([*common, "-o", str(folder / "warm.mp4")], folder / "warm.log")() == 0
    started = time.monotonic()
    assert run_child(animate([*common, "-o", str(undisturbed / "v.mp4"), "--fresh"], log), None) == 0
    length, video = time.monotonic() - started, (undisturbed / "v.mp4").read_bytes()
    total, truth = len(read_log(log)), read_segments(undisturbed / "hallo3_jobs")
    moments, killed, videos, repeated, longest = random.Random(seed), 0, 0, 0, 0
    while killed < kills:
        work = folder / f"video {videos}"
        work.mkdir()
        jobs, output, code = work / "hallo3_jobs", work / "v.mp4", None
        while killed < kills and code is None:
            before = len(read_segments(jobs))
            log.unlink(missing_ok=True)
            code = run_child(animate([*common, "-o", str(output)], log), moments.uniform(0, 1.1 * length))
            segments, rendered = read_segments(jobs), read_log(log)
            assert code in (None, 0)
            assert segments == {name: truth[name] for name in sorted(truth)[: len(segments)]}
            assert rendered == list(range(before, before + len(rendered)))
            lost = before + len(rendered) - len(segments)
            assert len(segments) >= before
            assert lost <= 1
            killed, repeated, longest = killed + (code is None), repeated + lost, max(longest, lost)
            assert not output.exists() or output.read_bytes() == video
        if code == 0:
            assert output.read_bytes() == video
            assert [path.name for path in sorted(work.iterdir())] == ["hallo3_jobs", "v.mp4"]
            videos += 1
    counts = {"kills": killed, "videos": videos, "segments": total}
    return counts | {"started again": repeated, "at most": longest}
