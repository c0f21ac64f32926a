"""Python runs this in every process whose ``PYTHONPATH`` begins with this folder: driver, workers, actors.

``FLEET_COMMITS`` is a file that gets a line per segment that is committed, and another if it had been before.
``FLEET_BUCKET`` is a folder that ``gs://`` names lead to: a storage that is slow, fails, and loses answers.
There leases are ``FLEET_LEASE`` seconds, and the times between tries are short.
"""

import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

SLOW, FAILS, OUTAGE = 0.05, 0.06, 0.01
"""Chances of an operation; an outage lasts for several."""


def note_commits(module: Any) -> None:
    real, log = module.Job.commit, os.environ["FLEET_COMMITS"]

    def commit(job: Any, index: int, *arguments: Any, **named: Any) -> Any:
        words = ["again"] * job.path(index).exists()
        record = real(job, index, *arguments, **named)
        with Path(log).open("a") as file:
            file.write(" ".join([f"{job.folder.name}/{index}", *words]) + "\n")
        return record

    module.Job.commit = commit


def shorten_lease(module: Any) -> None:
    lease = float(os.environ["FLEET_LEASE"])
    module.Terms.__init__.__kwdefaults__ = {"lease": lease, "beat": lease / 4, "skew": 0.05}


def open_bucket(module: Any) -> None:
    import fsspec

    folder, draw = module.Folder(), random.Random()
    module.DELAYS = tuple(delay / 10 for delay in module.DELAYS)
    down_until = 0.0

    def weather() -> None:
        nonlocal down_until
        if draw.random() < SLOW:
            time.sleep(draw.uniform(0.1, 1.0))
        if draw.random() < OUTAGE:
            down_until = time.monotonic() + draw.expovariate(1.0)
        if time.monotonic() < down_until or draw.random() < FAILS:
            raise draw.choice([TimeoutError, ConnectionResetError, OSError])("the service is not available")

    class Bucket(fsspec.AbstractFileSystem):  # pyright: ignore[reportUntypedBaseClass]
        cachable = False

        def _at(self, path: str) -> str:
            return str(Path(os.environ["FLEET_BUCKET"]) / path)

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
            weather()
            folder.pipe_file(self._at(path), value, mode=mode)
            weather()

        def cat_file(self, path: str, start: Any = 0, end: Any = 0, **_: Any) -> bytes:
            weather()
            return folder.cat_file(self._at(path), start=start, end=end)

        def put_file(self, lpath: str, rpath: str, *_: Any, **__: Any) -> None:
            weather()
            folder.put_file(lpath, self._at(rpath))
            weather()

    fsspec.register_implementation("gs", Bucket, clobber=True)


CHANGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "hallo3.jobs.job": ("FLEET_COMMITS", note_commits),
    "hallo3.fleet.claims": ("FLEET_LEASE", shorten_lease),
    "hallo3.fleet.objects": ("FLEET_BUCKET", open_bucket),
}


class Finder(MetaPathFinder):
    """Changes a module once it is loaded."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        del path, target
        variable, change = CHANGES.get(fullname, ("", None))
        if change is None or variable not in os.environ:
            return None
        del CHANGES[fullname]
        spec = importlib.util.find_spec(fullname)
        loader: Any = spec.loader if spec is not None else None
        run = loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            change(module)

        loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
