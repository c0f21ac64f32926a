"""What ``make mutants`` found: per module how many changes of the code the tests noticed, and the others."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

SURVIVED, UNTESTED = 0, 33
"""Exit codes in mutmut's records: the tests passed, or none runs that code. All others are noticed."""


def read_records(folder: Path) -> dict[str, dict[str, int]]:
    """Exit code by mutant, by module; of those that were run."""
    records = dict[str, dict[str, int]]()
    for path in sorted(folder.rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if known := {name: code for name, code in codes.items() if code is not None}:
            records[path.relative_to(folder).as_posix().removesuffix(".meta")] = known
    return records


def show(name: str) -> str:
    """The lines that a mutant changes."""
    mutmut = Path(sys.executable).with_name("mutmut")
    done = subprocess.run([mutmut, "show", name], capture_output=True, text=True, check=False)
    rows = done.stdout.splitlines()
    return "\n".join(row for row in rows if row[:1] in "+-" and row[:3] not in ("+++", "---"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--mutants", type=Path, default=Path("mutants"))
    options = parser.parse_args()
    records, modules = read_records(options.mutants), {}
    for module, codes in records.items():
        counts = Counter(codes.values())
        missed = counts[SURVIVED] + counts[UNTESTED]
        score = round(100 * (1 - missed / len(codes)), 1)
        modules[module] = {"mutants": len(codes), "survived": counts[SURVIVED], "untested": counts[UNTESTED]}
        modules[module] |= {"score": score}
        print(f"{module}: {score} % of {len(codes)}")
    survivors = {
        name: show(name)
        for codes in records.values()
        for name, code in codes.items()
        if code in (SURVIVED, UNTESTED)
    }
    result = {"modules": modules, "survivors": survivors}
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
