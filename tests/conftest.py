"""Shared fixtures: random models, a portrait and speech."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)
if "HALLO3_TEST_DEVICE" not in os.environ:  # only `make test-gpu` sees a GPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor

from comfyui.host import absent
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.messages import redirect_messages
from hallo3.models import Models
from hallo3.noise import make_generator
from hallo3.quantization import PRECISIONS
from hallo3.storage import files as memory

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for skipped ComfyUI tests. Here, because xdist does not call deeper conftest files."""
    skipped = [report.nodeid for report in terminalreporter.stats.get("skipped", ())]
    why = absent() if any(name.startswith("tests/comfyui/") for name in skipped) else None
    if why is not None:
        terminalreporter.write_line(f"SKIPPED, ALL OF tests/comfyui: {why}", red=True)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands do not write to the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "home", lambda: tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(autouse=True)
def _no_unexpected_message(request: pytest.FixtureRequest) -> Iterator[None]:
    """A message to the user that a test does not expect (``support.messages``) fails it, unless it is marked
    ``any_message``."""
    messages: list[str] = []
    with redirect_messages(messages.append):
        yield
    assert messages == [] or request.node.get_closest_marker("any_message"), (
        f"unexpected messages: {messages}"
    )


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random NANO set."""
    folder = tmp_path_factory.mktemp("nano")
    write_random_set(folder, 7, "nano")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random TINY set."""
    folder = tmp_path_factory.mktemp("tiny")
    write_random_set(folder, 7, "tiny")
    return folder


@pytest.fixture(scope="session")
def nano(nano_folder: Path) -> Models:
    return load_models(nano_folder, torch.device("cpu"), PRECISIONS["fp32"])


@pytest.fixture(scope="session")
def portrait() -> Tensor:
    """A picture [3, 80, 64] of smooth colours."""
    y, x = torch.linspace(0, 1, 80)[:, None], torch.linspace(0, 1, 64)[None]
    return torch.stack((y.expand(80, 64), x.expand(80, 64), (x + y) / 2))


def speech_of(samples: int, name: str = "speech") -> Recording:
    """Noise of ``samples`` samples at 16 kHz, by name."""
    drawn = make_generator(name).standard_normal(samples, dtype="float32")
    return Recording(torch.from_numpy(drawn)[None] * 0.1, 16000)


@pytest.fixture
def speech() -> Recording:
    """1.5 s: three NANO segments, the last one not full."""
    return speech_of(24000)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The portrait and speech the repository ships."""
    return REPOSITORY / "samples"
