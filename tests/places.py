"""Compare this machine's numeric places: ``python tests/places.py``.

Runs every golden and a job of two segments in a process per place: 1 to 3 threads, and the instruction sets
that MKL's and torch's own variables choose. Prints a row each, and exits 1 if a golden fails, a job has
another key, frames differ by more than ``MOST``, a resume elsewhere is not reported, or threads change one.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import numpy as np
import torch

import parity
from contract.frozen import frames_of
from golden_checks.directory import goldens
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.cli.main import main as run_command
from hallo3.quantization import describe_machine
from support.resume_runs import command_in, read_segments

BASE = "1 thread"
PLACES: dict[str, dict[str, str]] = {
    BASE: {},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "3 threads": {"OMP_NUM_THREADS": "3"},
    "MKL SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "MKL AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "MKL AVX512": {"MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "torch default": {"ATEN_CPU_CAPABILITY": "default"},
    "torch AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
}
MOST = 16
"""Of 255, of a random model in float32: 1 in 11 places of an AMD processor, up to 16 of an Intel one."""
AT_ONCE = 2


def measure(folder: Path, base: Path) -> dict[str, Any]:
    """What this process' place computes: goldens, a job of its own in ``folder``, the last segment of the job
    that ``base`` has."""
    verdicts = [each for golden in goldens(HERE / "golden") if (each := parity.judge(golden)) is not None]
    machine = describe_machine(torch.device("cpu"), torch.float32)
    found: dict[str, Any] = {"machine": machine, "wrong": [], "said": ""}
    found["wrong"] = [verdict.line() for verdict in verdicts if verdict.verdict != "pass"]
    found["worst"] = max(each.error / each.tolerance for each in verdicts if each.tolerance)
    for place in (folder / "own", folder / "resumed"):
        if place.name == "own":
            place.mkdir()
        elif base != folder:
            shutil.copytree(base / "own", place)
            max(place.glob("hallo3_jobs/*/segments/*.safetensors")).unlink()
        else:
            continue
        command = command_in(place, base / "model")
        command.speak(1.2)
        words = command.words(codec="ffv1", o=place / "v.mkv")
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as err:
            code = run_command(words)
        found["wrong"] += [f"{place.name}: exit code {code}: {err.getvalue()[-300:]}"] * bool(code)
        found["said"] = err.getvalue()
    found["job"] = next((folder / "own/hallo3_jobs").glob("*/job.json")).parent.name
    return found


def compare(
    name: str, folder: Path, base: Path, found: dict[str, Any], wanted: dict[str, Any]
) -> Iterator[str]:
    """What is wrong with a place."""
    yield from found["wrong"]
    if found["job"] != wanted["job"]:
        yield f"job {found['job']} instead of {wanted['job']}"
    apart = np.abs(frames_of(folder / "own/v.mkv").astype(int) - frames_of(base / "own/v.mkv"))
    found["apart"] = int(apart.max())
    if apart.max() > MOST:
        yield f"frames differ by {apart.max()}"
    elsewhere = found["machine"] != wanted["machine"]
    if (f"begun with {wanted['machine']}; here it is {found['machine']}" in found["said"]) != elsewhere:
        yield f"a resume said: {found['said']}"
    jobs = (folder / "resumed/hallo3_jobs", base / "own/hallo3_jobs")
    if not elsewhere and folder != base and read_segments(jobs[0]) != read_segments(jobs[1]):
        yield "a resumed job has other frames"
    if "threads" in name and elsewhere:
        yield "threads are another machine"


def run_place(name: str, folder: Path, base: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, __file__, str(folder), str(base)]
    environment = (
        os.environ
        | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": ""}
        | PLACES[name]
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    with TemporaryDirectory(prefix="hallo3_places_") as place:
        folders = {name: Path(place, str(number)) for number, name in enumerate(PLACES)}
        base = folders[BASE]
        base.mkdir()
        write_random_set(base / "model", 7, "nano")
        found = {BASE: run_place(BASE, base, base)}
        names = [name for name in PLACES if name != BASE]
        if "AVX512" not in found[BASE]["machine"]:
            names.remove("MKL AVX512")
            print("SKIPPED, MKL AVX512: this processor has no AVX512", flush=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found |= zip(
                names, pool.map(lambda name: run_place(name, folders[name], base), names), strict=True
            )
        failed = 0
        for name in (BASE, *names):
            wrong = list(compare(name, folders[name], base, found[name], found[BASE]))
            failed += bool(wrong)
            row = found[name]
            print(
                f"{name:<14} {row['machine']}; goldens {row['worst']:.2f} of tolerance; frames {row['apart']}"
            )
            print("".join(f"  FAILED: {text}\n" for text in wrong), end="")
        print(f"{len(found) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))))
    else:
        sys.exit(main())
