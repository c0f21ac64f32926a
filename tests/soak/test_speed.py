"""The built-in model's expected time beside what runs take here, in CPU seconds of one thread, which other
programs change little."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hallo3.cli.main import main
from hallo3.config import BUILT_IN
from hallo3.jobs.estimate import THROUGHPUT_FILENAME
from hallo3.speed.device import SECONDS, DeviceSpeed
from hallo3.storage import files

pytestmark = [pytest.mark.soak, pytest.mark.any_message]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, time.process_time)
    monkeypatch.setattr(files, "home", lambda: tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def test_runs_take_as_long_as_expected(home: Path, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DeviceSpeed(device=torch.device("cpu"), models=(BUILT_IN,), seconds=SECONDS).measure()
    inputs = "--portrait", samples / "portrait.png", "--speech", samples / "speech.wav"
    for number, options in enumerate(("", "--enlarge 4", "--guidance 2 --steps 6", "--steps 3 --low-memory")):
        folder = home / str(number)
        folder.mkdir()
        words = ["animate", *map(str, inputs), *options.split(), "--jobs-folder", str(folder)]
        assert main([*words, "--plan", "--json"]) == 0
        planned = json.loads(capsys.readouterr().out)
        assert main([*words, "-o", str(folder / "a.mp4")]) == 0
        capsys.readouterr()
        (entry,) = json.loads((folder / THROUGHPUT_FILENAME).read_text()).values()
        expected = planned["render_seconds"] / planned["segments"]
        with capsys.disabled():
            print(
                f"{options:24} {entry['seconds']:.3f} s, expected {expected:.3f} s ± {planned['error']:.0%}"
            )
        assert abs(entry["seconds"] / expected - 1) < planned["error"]
