"""Throughput of earlier runs is kept for later estimates."""

from pathlib import Path

import pytest

from hallo3.jobs.estimate import THROUGHPUT_FILENAME, Throughput, read_throughput, save_throughput


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": 3}', '{"kind": {"seconds": "x"}}', "[" * 9999])
def test_a_throughput_file_that_cannot_be_read_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / THROUGHPUT_FILENAME).write_text(text)
    assert read_throughput(tmp_path, "kind") is None
    save_throughput(tmp_path, "kind", Throughput(2.0, 300.0))
    assert read_throughput(tmp_path, "kind") == Throughput(2.0, 300.0)
    for number in range(300):
        save_throughput(tmp_path, str(number), Throughput(1.0, 1.0))
    assert read_throughput(tmp_path, "kind") is None
    save_throughput(tmp_path / "nowhere", "kind", Throughput(1.0, 1.0))
