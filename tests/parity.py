"""Compare this package with recorded runs of the original: ``python tests/parity.py DIR [--json FILE]``.

Prints a line per golden: name, maximum error, tolerance, verdict. Exits 1 if any fails or none is
recognised. tests/golden/README.md describes the format.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch

from golden_checks.directory import Check, Golden, Report, goldens

MODULES = (
    import_module(f"golden_checks.{each.name}") for each in iter_modules([str(HERE / "golden_checks")])
)
CHECKS: tuple[Check, ...] = tuple(check for each in MODULES for check in getattr(each, "CHECKS", ()))


@dataclass(frozen=True)
class Verdict:
    name: str
    verdict: str
    tensor: str = ""
    error: float = 0.0
    tolerance: float = 0.0
    compared: int = 0

    def line(self) -> str:
        if not self.compared:
            return f"{self.name:<28} {'':>10} {'':>8}  {self.verdict} {self.tensor}".rstrip()
        return (
            f"{self.name:<28} {self.error:>10.2e} {self.tolerance:>8.0e}  {self.verdict}"
            f"  ({self.compared} compared; {self.tensor})"
        )


@torch.inference_mode()
def judge(golden: Golden) -> Verdict | None:
    """Compare one golden; None for weights that other goldens use."""
    if golden.fault:
        return Verdict(golden.name, "FAIL", golden.fault)
    report = Report(golden)
    try:
        checks = [check for check in CHECKS if check.recognise(golden)]
        if not checks:
            return None if golden.name.startswith("weights_") else Verdict(golden.name, "not handled")
        for check in checks:
            check.compare(golden, report)
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        return Verdict(golden.name, "FAIL", f"{type(error).__name__}: {first_line}")
    if not report.rows:
        return Verdict(golden.name, "FAIL", "recognised, but it holds nothing to compare")
    return Verdict(golden.name, "pass" if report.passed else "FAIL", *report.worst, len(report.rows))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="directory of goldens")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcome here")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        print(f"{options.folder} is not a directory")
        return 1
    verdicts: list[Verdict] = []
    for golden in goldens(options.folder):
        verdict = judge(golden)
        if verdict is not None:
            verdicts.append(verdict)
            print(verdict.line(), flush=True)
    outcomes = [verdict.verdict for verdict in verdicts]
    good = outcomes.count("pass") > 0 and "FAIL" not in outcomes
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("pass", "FAIL", "not handled"))
    print(counts)
    if options.json:
        options.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
