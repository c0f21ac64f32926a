"""One writer per folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hallo3.errors import OutputError
from hallo3.storage.lock import HOLDER_FILENAME, lock_folder


def test_a_second_writer_is_refused_with_the_holder(tmp_path: Path) -> None:
    text = f"Another run is working on this(?s:.*)process {os.getpid()} since"
    with lock_folder(tmp_path, "this"):
        with pytest.raises(OutputError, match=text), lock_folder(tmp_path, "this"):
            pass
        (tmp_path / HOLDER_FILENAME).write_text("[" * 5000)
        with pytest.raises(OutputError, match="another process"), lock_folder(tmp_path, "this"):
            pass
    with lock_folder(tmp_path, "this"):
        pass


HOLD_LOCK = """
import sys, time
from pathlib import Path
from hallo3.storage.lock import lock_folder
with lock_folder(Path(sys.argv[1]), "this"):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(tmp_path)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        with pytest.raises(OutputError, match=f"process {child.pid} "), lock_folder(tmp_path, "this"):
            pass
        child.kill()
        child.wait()
    with lock_folder(tmp_path, "this"):
        pass
