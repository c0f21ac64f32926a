"""Print the names of every k-th mutant of each module, so that a run of ``make mutants`` takes an hour."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=50, help="about how many of a module")
    parser.add_argument("--offset", type=int, default=0, help="start at this one: another sample")
    parser.add_argument("--module", default="*.py.meta", help="only of modules like this")
    parser.add_argument("--mutants", type=Path, default=Path("mutants"))
    options = parser.parse_args()
    for path in sorted(options.mutants.rglob(options.module)):
        names = [*json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]]
        step = max(1, -(-len(names) // options.each))
        print("\n".join(names[options.offset % step :: step]))


if __name__ == "__main__":
    main()
