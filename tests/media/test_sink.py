"""What FFmpeg writes to a full disk: it is told nothing, whoever asks is."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from hallo3.media.mux import OutputFile

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs a disk that is always full")
def test_the_first_failure_is_kept() -> None:
    file = OutputFile(FULL)
    for _ in range(3):
        assert file.write(bytes(100_000)) == 100_000
        assert file.seek(7) == 7
        with pytest.raises(OSError, match=r".") as failed:
            file.check()
        assert failed.value.errno == errno.ENOSPC
    with suppress(OSError):
        file.close()
    assert file.closed


def test_what_is_held_back_is_written_when_asked(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "f") as file:
        file.write(b"abc")
        file.seek(1)
        file.write(b"x")
        file.check()
        assert (tmp_path / "f").read_bytes() == b"axc"
