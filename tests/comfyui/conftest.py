"""Tests in a real ComfyUI: skipped with one loud line without one, failing under REQUIRE_COMFYUI=1."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hallo3
from comfyui.browser import Page, opened
from comfyui.host import Host, absent
from comfyui.server import Server
from comfyui.stages import Stages
from comfyui.templates import bring_files
from comfyui.torchvision_stubs import lend_operators

HERE = Path(__file__).parent
WHY = absent()
if WHY is None:
    lend_operators()
REQUIRED = os.environ.get("REQUIRE_COMFYUI") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.any_message)


@pytest.fixture(scope="session", autouse=True)
def comfyui() -> None:
    if WHY is not None:
        (pytest.fail if REQUIRED else pytest.skip)(WHY)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Page]:
    """ComfyUI's page, for a user who has files for every template."""
    with bring_files(server.base), opened(server.url) as page:
        yield page


@pytest.fixture
def page(session: Page) -> Page:
    session.problems.clear()
    return session


@pytest.fixture(scope="session")
def picture(samples: Path) -> Tensor:
    return hallo3.read_picture(samples / "portrait.png")


@pytest.fixture(scope="session")
def recording(samples: Path) -> hallo3.Recording:
    return hallo3.read_recording(samples / "speech.wav")


@pytest.fixture(scope="session")
def stages(host: Host, picture: Tensor, recording: hallo3.Recording) -> Stages:
    return Stages(host, picture, recording)


@pytest.fixture
def folders(stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's output and input folder, empty."""
    import folder_paths

    assert stages  # ComfyUI is there
    for name in ("output", "input"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """ComfyUI runs nodes so."""
    with torch.inference_mode():
        yield
