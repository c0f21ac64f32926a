"""Every error that a test meets has the words recorded in ``tests/data/refusals.json``, where a folder's
conftest takes the fixture of this module. Words changed on purpose are recorded again:
``RECORD_REFUSALS=1 pytest -n0 tests/checkpoints tests/jobs tests/storage``."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hallo3.errors import Hallo3Error

RECORDED = Path(__file__).parents[1] / "data" / "refusals.json"
RECORDING = "RECORD_REFUSALS" in os.environ


@pytest.fixture(autouse=True)
def words_are_as_recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    met, original = list[str](), Hallo3Error.__init__

    def record(self: Hallo3Error, headline: str, **parts: Any) -> None:
        original(self, headline, **parts)
        ours = isinstance(sys.exception() or self, Hallo3Error)  # other libraries' words change
        found = re.sub(r"/\S*pytest-\S*/", "", self.found) if ours else "..."
        found = re.sub(r"\btest_\w*\d", "FOLDER", found)  # whose number counts folders
        found = re.sub(r"[\d,]+ bytes free on the disk \S+", "N bytes free on the disk", found)
        met.append(" | ".join((self.headline, found, self.expected, self.fix)))

    monkeypatch.setattr(Hallo3Error, "__init__", record)
    yield
    if hasattr(request.function, "hypothesis") or request.node.get_closest_marker("any_message"):
        return
    name, texts = f"{request.path.stem}::{request.node.name}", [*dict.fromkeys(met)]
    known = json.loads(RECORDED.read_text(encoding="utf-8"))
    if RECORDING:
        known.pop(name, None)
        known |= {name: texts} if texts else {}
        RECORDED.write_text(json.dumps(dict(sorted(known.items())), indent=0) + "\n", encoding="utf-8")
    elif sys.platform == "linux":
        assert texts == known.get(name, [])
