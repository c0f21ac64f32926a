"""Count how much of the package one ``hallo3 animate`` runs: files, call depth, weight files opened.

``python tools/trace_run.py`` renders one segment of the sample twice with the built-in model; the second run
finds a finished job and renders nothing. A file counts if one of its functions is called outside an import.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import threading
import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = str(ROOT / "hallo3")
BUILT_IN = str(ROOT / "hallo3" / "built_in")
SLOW_IMPORTS = ("diffusers", "transformers")
sys.path.insert(0, str(ROOT))


class Trace:
    """While entered: package files whose functions are called, package frames on the stack of the
    transformer's ``forward``, and how often each of the built-in model's files is opened."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.depth = 0
        self.opened: Counter[str] = Counter()
        self.active = False
        sys.addaudithook(self._audit)

    def __enter__(self) -> Trace:
        self.active = True
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        self.active = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event == "open" and str(arguments[0]).startswith(BUILT_IN):
            self.opened[Path(str(arguments[0])).name] += 1

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not _in_package(code := frame.f_code) or code.co_name == "<module>":
            return
        forward = code.co_qualname == "Hallo3Transformer.forward"
        if code.co_filename in self.files and not forward:
            return
        stack = [each for each in _callers(frame) if _in_package(each)]
        if all(each.co_name != "<module>" for each in stack):
            self.files.add(code.co_filename)
            self.depth = len(stack) if forward else self.depth


def _in_package(code: CodeType) -> bool:
    return code.co_filename.startswith(PACKAGE)


def _callers(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def trace_command(words: list[str]) -> Trace:
    from hallo3.cli.main import main

    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err), Trace() as trace:
        code = main(words)
    if code:
        raise SystemExit(err.getvalue())
    return trace


def trace_twice(folder: Path) -> tuple[Trace, Trace]:
    """A run that renders one segment, and a run that finds its finished job."""
    words = ["animate", "--portrait", str(ROOT / "samples" / "portrait.png")]
    words += ["--speech", str(folder / "s.wav"), "-o", str(folder / "v.mp4")]
    with (
        wave.open(str(ROOT / "samples" / "speech.wav")) as speech,
        wave.open(str(folder / "s.wav"), "wb") as cut,
    ):
        cut.setparams(speech.getparams())
        cut.writeframes(speech.readframes(speech.getframerate()))
    return trace_command(words), trace_command(words)


def summarize(first: Trace, second: Trace) -> dict[str, Any]:
    return {
        "package files": len(list(Path(PACKAGE).rglob("*.py"))),
        "files run": len(first.files),
        "files run, job finished": len(second.files),
        "depth of the transformer": first.depth,
        "slow imports": [name for name in SLOW_IMPORTS if name in sys.modules],
        "weight files opened": dict(sorted(first.opened.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--files", action="store_true", help="list the files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, second = trace_twice(Path(folder))
    text = json.dumps(summarize(first, second), indent=1)
    print(text)
    if options.files:
        for title, trace in (("run", first), ("run, job finished", second)):
            names = sorted(str(Path(name).relative_to(ROOT)) for name in trace.files)
            print("\n".join(["", f"{title}:", *names]))
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
