"""``python -m training all --out DIR``: make the built-in model's files. A stopped stage resumes."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)

import torch

from .parallel import run_in_processes
from .stages import SHARED, STAGES
from .start import begin_run


def main() -> None:
    parser = ArgumentParser(prog="training", description=__doc__)
    parser.add_argument("stage", choices=["all", *STAGES])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, kept between calls")
    parser.add_argument(
        "--start", type=Path, metavar="MODEL", help="begin a new run with the networks of this model folder"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device",
        type=torch.device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="device of the stages vae, diffusion and decoder; the others use the CPU",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--processes", type=int, default=2, help="that share the batches of a stage on a CPU")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make clips")
    options = parser.parse_args(sys.argv[1:])
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.start is not None:
        begin_run(options.out, options.seed, options.start)
    for name in STAGES if options.stage == "all" else [options.stage]:
        shared = name in SHARED and options.device.type == "cpu"
        run_in_processes(STAGES[name], options, options.processes if shared else 1)


if __name__ == "__main__":
    main()
