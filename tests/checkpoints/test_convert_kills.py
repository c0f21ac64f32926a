"""However a conversion is stopped, the next one goes on, and no half file has a whole one's name."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from hallo3.checkpoints import convert as journal
from hallo3.checkpoints.component import find_components
from hallo3.checkpoints.convert import plan_output, write_output
from hallo3.checkpoints.source import CheckpointSource, open_source
from hallo3.errors import OutputError
from hallo3.quantization.precision import PRECISIONS
from support import original_checkpoints as checkpoints

CONFIG = checkpoints.NANO


def stored(folder: Path, dtype: torch.dtype = torch.bfloat16) -> CheckpointSource:
    path = folder / "mp_rank_00_model_states.pt"
    checkpoints.write_checkpoint(path, CONFIG, dtype)
    return open_source(path)


def test_a_stop_at_any_block_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SAFE_EVERY", 4000)
    with stored(tmp_path) as source:
        found = find_components(source)["transformer"]
        for precision in ("bf16", "fp8"):
            wanted = tmp_path / f"{precision}.safetensors"
            made = plan_output(found, PRECISIONS[precision], {"a": 1})
            write_output(made, wanted)
            blocks = sum(1 for _ in made.blocks(0))
            for stop in range(0, blocks, 17):
                target = tmp_path / f"{precision}-{stop}.safetensors"
                with pytest.raises(KeyboardInterrupt):
                    write_output(made, target, Stopping(stop))
                assert not target.exists()
                done: list[int] = []
                write_output(made, target, done.append)
                assert target.read_bytes() == wanted.read_bytes()
                assert stop < 100 or done[0] > 0  # it went on, not from the beginning
                assert sum(done) == pytest.approx(made.size, abs=len(made.header))
                target.unlink()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".pt", ".safetensors", ".safetensors"]


class Stopping:
    """A watch that stops the run after so many blocks."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks + 1  # the first call says where it goes on

    def __call__(self, _count: int) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


def test_what_another_recipe_left_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SAFE_EVERY", 4000)
    target = tmp_path / "out.safetensors"
    with stored(tmp_path) as source:
        found = find_components(source)["reference"]
        with pytest.raises(KeyboardInterrupt):
            write_output(plan_output(found, PRECISIONS["bf16"], {"a": 1}), target, Stopping(40))
        other = plan_output(found, PRECISIONS["bf16"], {"a": 2})
        write_output(other, target)
        assert target.read_bytes() == b"".join(other.blocks(0))


def test_two_runs_do_not_write_the_same_file(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with stored(tmp_path) as source:
        made = plan_output(find_components(source)["reference"], PRECISIONS["bf16"], {})

        def second(_count: int) -> None:
            with pytest.raises(OutputError, match="another run"):
                write_output(made, target)

        write_output(made, target, second)
        assert target.read_bytes() == b"".join(made.blocks(0))


KILLED = """
import os, signal, sys, time
from pathlib import Path
import torch
from hallo3.checkpoints import convert as journal
from hallo3.checkpoints.convert import plan_output
from hallo3.checkpoints.component import find_components
from hallo3.quantization.precision import PRECISIONS
from hallo3.checkpoints.source import open_source
journal.SAFE_EVERY = 4000
torch.set_num_threads(1)
source, target, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
with open_source(source) as opened:
    made = plan_output(find_components(opened)["transformer"], PRECISIONS["bf16"], {})
    wanted = b"".join(made.blocks(0))
    halves = 0
    start = time.perf_counter()
    journal.write_output(made, target)
    length = time.perf_counter() - start
    target.unlink()
    for attempt in range(times):
        child = os.fork()
        if not child:
            journal.write_output(made, target)
            os._exit(0)
        time.sleep(length * (attempt * 0.618 % 1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        halves += not target.exists()
        assert not target.exists() or target.read_bytes() == wanted
        if attempt % 3 == 2:
            target.unlink(missing_ok=True)
    journal.write_output(made, target)
    assert target.read_bytes() == wanted
    print(halves)
"""


def killed(folder: Path, times: int) -> int:
    """Kill a conversion so many times; how many of them had not finished."""
    source, target = folder / "mp_rank_00_model_states.pt", folder / "out.safetensors"
    checkpoints.write_checkpoint(source, CONFIG)
    words = [sys.executable, "-c", KILLED, str(source), str(target), str(times)]
    done = subprocess.run(words, check=True, capture_output=True, cwd=Path(__file__).parents[2], text=True)
    return int(done.stdout)


def test_killed_at_random_points_it_never_leaves_half_a_file(tmp_path: Path) -> None:
    assert killed(tmp_path, 10) > 0


@pytest.mark.soak
def test_killed_fifty_times(tmp_path: Path) -> None:
    assert killed(tmp_path, 50) > 5


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    usage = namedtuple("usage", "total used free")
    with stored(tmp_path) as source:
        made = plan_output(find_components(source)["reference"], PRECISIONS["bf16"], {})
        monkeypatch.setattr(journal.shutil, "disk_usage", lambda _folder: usage(10, 0, 10))
        with pytest.raises(OutputError, match="not enough room"):
            write_output(made, tmp_path / "out.safetensors")
