"""``python -m benchmarks NAME [options]``: every figure by one command; NAME --help lists its options."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from runpy import run_module
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)

NAMES = {
    "counts": ("ledger", "operations, bytes and memory of a step at full size, without weights; --chart"),
    "exactness": ("exactness", "how far each exact saving is from float64, beside the original's way"),
    "precision": ("precision", "distance of one forward in bf16, fp16 and fp8 from float32"),
    "mixtures": ("mixtures", "samplers and approximations on data whose distribution is known"),
    "approximations": ("approximations", "what approximations do to the built-in model's videos"),
    "ceilings": ("ceilings", "a whole run at full size under ceilings of memory, counted without a GPU"),
    "cpu": ("cpu", "seconds of a NANO segment, small 3D convolutions"),
    "times": ("times", "times on the device that is here, ours beside the original's; --chart"),
    "length": ("length", "time and memory against the length of speech; --chart"),
    "drift": ("drift", "for owners of released weights: what approximations do to a video of yours"),
}
"""Subcommands: the module, and what it finds out."""


def usage() -> str:
    """Every name with a line."""
    rows = "\n".join(f"  {name:15} {about}" for name, (_, about) in NAMES.items())
    return f"usage: python -m benchmarks NAME [--json FILE] [options]\n\n{rows}"


def stamp(path: Path, name: str, words: Sequence[str]) -> None:
    """Have a written result say on what it was measured, and by which command."""
    from benchmarks.report import stamped, write_json

    found: Any = json.loads(path.read_text(encoding="utf-8"))
    write_json(stamped({name: found} if isinstance(found, list) else found, name, words), path)


def json_file(words: Sequence[str]) -> Path | None:
    """What ``--json`` names, if it is there."""
    for place, word in enumerate(words):
        if word == "--json" and place + 1 < len(words):
            return Path(words[place + 1])
        if word.startswith("--json="):
            return Path(word.partition("=")[2])
    return None


def main(words: Sequence[str]) -> int:
    """Run a subcommand; the exit status."""
    if not words or words[0] in {"-h", "--help"}:
        print(usage())
        return 0
    name, *rest = words
    if name not in NAMES:
        print(f"{usage()}\n\nThere is no {name!r}.", file=sys.stderr)
        return 2
    module = f"benchmarks.{NAMES[name][0]}"
    before, sys.argv = sys.argv, [f"python -m benchmarks {name}", *rest]
    try:
        if hasattr(import_module(module), "main"):
            import_module(module).main()
        else:
            run_module(module, run_name="__main__")
    finally:
        sys.argv = before
    path = json_file(rest)
    if path is not None and path.exists():
        stamp(path, name, rest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
