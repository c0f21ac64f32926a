"""A run that is killed, or whose disk fills up or fails, at any change of the file system: the next one makes
the same video and leaves the same files. ``make soak`` tries every change alone."""

import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path

import pytest

from hallo3.storage import files
from soak.machine import keep
from support.fault_injection import Fault, faults_in
from support.resume_runs import command_in

OUTPUTS = {
    "preview": "look.png",
    "chart": "drift.png",
    "speech_chart": "loud.png",
    "save_identity": "me.safetensors",
}
SCENES = ("outputs", "continued", "redone", "fresh")
STEP = 41
"""Of the changes that are tried in ``make test``, one run after the other."""


class Scene:
    """A command in a folder that can be put back to its start. A run with all ``OUTPUTS`` beside a stale
    job, and runs that continue a video, redo it, or start over."""

    def __init__(self, name: str, folder: Path, model: Path) -> None:
        self.folder, self.start, self.name = folder / "run", folder / "start", name
        (self.folder / "home").mkdir(parents=True)
        self.command = command_in(self.folder, model)
        self.command.speak(0.7)
        self.flags, self.options = list[str](), dict[str, object]()
        if name == "outputs":
            self.run(seed=9)
            for path in self.command.jobs.rglob("*"):
                os.utime(path, (1, 1))
            self.command.video.unlink()
            self.options = {name: self.folder / file for name, file in OUTPUTS.items()} | {"level": "evened"}
        elif name == "continued":
            self.run(o=self.folder / "first.mp4")
            self.options = {"continue_from": self.folder / "first.mp4", "seed": 3}
        else:
            self.run()
            self.flags = ["--fresh"] if name == "fresh" else ["--redo", "1-"]
        shutil.copytree(self.folder, self.start)
        self.run(*self.flags, **self.options)
        self.wanted = self.files()
        assert (name != "outputs") or not {*OUTPUTS.values()} - {*self.wanted}

    def run(self, *flags: str, code: int = 0, **options: object) -> str:
        with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
            assert self.command(*flags, "--steps", "1", **options) == code, err.getvalue()[-800:]
        return err.getvalue()

    def disturb(self, number: int, kind: str) -> str:
        """Run with a fault at this change; the change, "" if there are fewer. An error says all that it
        should."""
        with (
            redirect_stderr(io.StringIO()) as err,
            redirect_stdout(io.StringIO()),
            faults_in(number, kind) as fault,
        ):
            try:
                code = self.command(*self.flags, "--steps", "1", **self.options)
            except Fault:
                code = None
        text = err.getvalue()
        assert "Traceback" not in text
        assert "Unexpected error" not in text
        assert code in ((None, 0) if kind == "kill" else (0, 1)), text[-800:]
        if code == 1 and kind == "stays full":
            found = text.split("Found:")[1].split("Expected:")[0]
            assert f"{self.folder}" in found
            assert " bytes free on the disk /" in found
            if any(part in found for part in ("/speech/", "/sound.", "/so_far", "/v.mp4")):
                assert "segments are saved" in text or "no segment is finished yet" in text
        if kind != "kill":
            assert not [name for name in self.files() if name.endswith(".unfinished")]
        return "".join(fault)

    def resume(self) -> None:
        self.run(*(flag for flag in self.flags if flag != "--fresh"), **self.options)
        assert self.files() == self.wanted

    def files(self) -> dict[str, bytes]:
        """All files with the content of the video; without jobs that were set aside."""
        names = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*")}
        return {
            name: path.read_bytes() if path == self.command.video else b""
            for name, path in names.items()
            if ".old-" not in name
        }

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.start, self.folder)


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setattr(files, "home", lambda: tmp_path / "run" / "home")
    return Scene(request.param, tmp_path, nano_folder)


@pytest.mark.any_message
@pytest.mark.parametrize("scene", ["outputs"], indirect=True)
@pytest.mark.parametrize("kind", ["kill", "stays full"])
def test_runs_that_end_later_and_later(scene: Scene, kind: str) -> None:
    scene.reset()
    for number in count(1, STEP):
        if not scene.disturb(number, kind):
            break
    assert number > 3 * STEP
    scene.resume()


@pytest.mark.soak
@pytest.mark.any_message
@pytest.mark.parametrize("scene", SCENES, indirect=True)
@pytest.mark.parametrize("kind", ["kill", "stays full", "broken"])
def test_every_change(scene: Scene, kind: str) -> None:
    started = time.monotonic()
    for number in count(1):
        scene.reset()
        struck = scene.disturb(number, kind)
        scene.resume()
        if not struck:
            break
    assert number > 40
    figures = {"points": number - 1, "seconds": round(time.monotonic() - started, 1)}
    keep(f"soak_crash_points_{scene.name}_{kind.replace(' ', '_')}.json", figures)
