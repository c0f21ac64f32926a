"""The benchmark of the built-in model resumes, and tells which floors are met."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import built_in
from benchmarks.built_in_floors import FLOORS, check_floors, write_table


def test_floors_are_met_from_their_side() -> None:
    rows = {"people": {"follows": 0.85, "control": 0.2, "seam": 3.0}, "people, by chance": {"follows": 0.01}}
    floors = check_floors(rows)
    assert floors["mouths follow their speech"] == {
        "measured": 0.85,
        "least": 0.8,
        "met": True,
        "aim": 0.87,
        "chance": 0.01,
    }
    assert not floors["mouths follow another recording"]["met"]
    assert floors["change across segments, relative to inside"]["met"]
    assert len(floors) == 3
    table = write_table({**rows, "speed": {"cpu_seconds": 2.5}})
    assert "| mouths follow another recording | 0.2 | at most 0.12 |  |  | **no** |" in table
    assert "speed: cpu_seconds 2.5" in table
    assert len({floor.about for floor in FLOORS}) == len(FLOORS)


def test_a_stopped_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def list_rows(*_: Any) -> dict[str, Any]:
        def measure(name: str) -> dict[str, float]:
            measured.append(name)
            return {"follows": 0.8123456, "change": float("nan")}

        return {name: lambda name=name: measure(name) for name in ("one", "two")}

    monkeypatch.setattr(built_in, "list_rows", list_rows)
    monkeypatch.setattr(built_in, "load_models", lambda *_: None)
    (tmp_path / "t.safetensors").write_bytes(b"weights")
    path = tmp_path / "out.json"
    options = Namespace(model=tmp_path, json=path, table=None, pictures=None)
    first = next(iter(built_in.measure_built_in(options)))
    path.write_text(json.dumps(first))
    *_, last = built_in.measure_built_in(options)
    assert measured == ["one", "two"]
    assert last["rows"] == {"one": {"follows": 0.812}, "two": {"follows": 0.812}}
    (tmp_path / "t.safetensors").write_bytes(b"others")
    list(built_in.measure_built_in(options))
    assert measured == ["one", "two", "one", "two"]
