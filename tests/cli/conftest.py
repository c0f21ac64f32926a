from pathlib import Path

import pytest

from support.resume_runs import Command, Undisturbed, command_in


@pytest.fixture
def command(tmp_path: Path, nano_folder: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_in(tmp_path, nano_folder, capfd)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> Undisturbed:
    """The video and the segments of a run that is not stopped."""
    command = command_in(tmp_path_factory.mktemp("undisturbed"), nano_folder)
    assert command() == 0
    return Undisturbed(command.video.read_bytes(), command.saved_segments())
