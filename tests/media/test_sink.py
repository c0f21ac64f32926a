"""What FFmpeg writes to a full disk: it is told nothing, whoever asks is."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from hallo3.media.mux import Sink

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs a disk that is always full")
def test_the_first_failure_is_kept() -> None:
    sink = Sink(FULL)
    for _ in range(3):
        assert sink.write(bytes(100_000)) == 100_000
        assert sink.seek(7) == 7
        with pytest.raises(OSError, match=r".") as failed:
            sink.check()
        assert failed.value.errno == errno.ENOSPC
    with suppress(OSError):
        sink.close()
    assert sink.closed


def test_what_is_held_back_is_written_when_asked(tmp_path: Path) -> None:
    with Sink(tmp_path / "f") as sink:
        sink.write(b"abc")
        sink.seek(1)
        sink.write(b"x")
        sink.check()
        assert (tmp_path / "f").read_bytes() == b"axc"
