"""How much of the package one ``hallo3 animate`` runs: files entered, call depth, weights opened.

``python tools/trace_run.py`` renders one segment of the sample with the built-in model twice: the first time
everything, the second time a finished job, of which nothing is rendered. A file counts once a function of it
has been called; what only runs while a module is imported does not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hallo3"
sys.path.insert(0, str(ROOT))


class Trace:
    """Files of the package whose functions are called, the deepest call of the transformer, files opened."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.depth = 0
        self.opened: Counter[str] = Counter()
        self.active = False
        sys.addaudithook(self._audit)

    def __enter__(self) -> Trace:
        self.active = True
        sys.setprofile(self._profile)
        threading.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        self.active = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event == "open" and str(arguments[0]).endswith(".safetensors"):
            self.opened[Path(str(arguments[0])).name] += 1

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(str(PACKAGE)) or frame.f_code.co_name == "<module>":
            return
        stack = list(_callers(frame))
        if any(code.co_name == "<module>" and code.co_filename.startswith(str(PACKAGE)) for code in stack):
            return  # an import
        self.files.add(str(Path(name).relative_to(ROOT)))
        if frame.f_code.co_qualname == "Hallo3Transformer.forward":
            self.depth = sum(code.co_filename.startswith(str(PACKAGE)) for code in stack)


def _callers(frame: FrameType | None) -> Any:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def trace(words: list[str]) -> Trace:
    from hallo3.cli.main import main

    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err), Trace() as found:
        code = main(words)
    if code:
        sys.exit(err.getvalue())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--files", action="store_true", help="list the files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["animate", "--portrait", str(ROOT / "samples" / "portrait.png")]
        words += ["--speech", str(ROOT / "samples" / "speech.wav"), "-o", str(Path(folder) / "v.mp4")]
        first, second = trace(words), trace(words)
    figures = {
        "package files": len(list(PACKAGE.rglob("*.py"))),
        "files run": len(first.files),
        "files run, job finished": len(second.files),
        "depth of the transformer": first.depth,
        "weight files opened": dict(sorted(first.opened.items())),
    }
    print(json.dumps(figures, indent=1))
    if options.files:
        print("\n".join(sorted(first.files)))
        print("\nof a finished job:\n" + "\n".join(sorted(second.files)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
