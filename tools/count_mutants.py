"""What ``make mutants`` found: per module how many changes of the code were tried and how many noticed; the
others, with the judgements that an earlier result has of them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

UNNOTICED = (0, 33)
"""Exit codes in mutmut's records: the tests passed, or none runs that code. All others are noticed."""


def show(name: str) -> str:
    """The lines that a mutant changes."""
    mutmut = Path(sys.executable).with_name("mutmut")
    done = subprocess.run([mutmut, "show", name], capture_output=True, text=True, check=False)
    rows = [row for row in done.stdout.splitlines() if row[:1] in "+-" and row[:3] not in ("+++", "---")]
    return "\n".join(f"{row[0]} {row[1:].strip()}" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--mutants", type=Path, default=Path("mutants"))
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(options.json.read_text(encoding="utf-8"))
    known = {each["change"]: each["judgement"] for each in result["survivors"].values()}
    result["modules"], result["survivors"] = {}, {}
    for path in sorted(options.mutants.rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        tried = {name: code for name, code in codes.items() if code is not None}
        survivors = {name: show(name) for name, code in tried.items() if code in UNNOTICED}
        if not tried:
            continue
        noticed, module = len(tried) - len(survivors), path.relative_to(options.mutants).as_posix()[:-5]
        counts = {"mutants": len(codes), "tried": len(tried), "noticed": noticed}
        result["modules"][module] = counts | {"score": round(100 * noticed / len(tried), 1)}
        print(module, *result["modules"][module].items())
        for name, change in survivors.items():
            result["survivors"][name] = {"change": change, "judgement": known.get(change, "")}
    options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
