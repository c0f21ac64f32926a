"""A command of four NANO segments, and what it renders."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.resume_runs import inputs_in, record_rendered, run


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    """Options by flag."""
    return inputs_in(tmp_path, nano_folder)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the segments that are rendered."""
    return record_rendered(monkeypatch)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> bytes:
    """The video of a run that is not stopped."""
    inputs = inputs_in(tmp_path_factory.mktemp("undisturbed"), nano_folder)
    assert run(inputs) == 0
    return Path(inputs["-o"]).read_bytes()
