"""The pack among the libraries of ComfyUI's environment: what it installs, and what may be broken."""

import json
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from comfyui.client import node
from comfyui.host import REPOSITORY, find_comfyui
from comfyui.server import Server
from support.audio_samples import tone, write_wav

BREAKABLE = ("diffusers", "librosa", "numba", "soundfile")
"""Libraries that no node imports between a photo and its video."""


def brought_by(requirements: list[str]) -> dict[str, Distribution]:
    """What is installed here of these requirements, and of what they require."""
    found, wanted = dict[str, Distribution](), [Requirement(line) for line in requirements]
    while wanted:
        each = wanted.pop()
        name = canonicalize_name(each.name)
        if name in found or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # a companion of torch that is not needed here
            continue
        wanted += [Requirement(line) for line in found[name].requires or []]
    return found


def test_installing_the_requirements_changes_no_version_of_comfyuis(tmp_path: Path) -> None:
    """pip is asked in an environment that knows of ComfyUI's libraries and of no other."""
    folder = find_comfyui()
    assert folder is not None
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    theirs = brought_by([line for line in lines if line.strip() and not line.startswith("#")])
    assert {"torch", "numpy", "transformers", "av", "pillow"} <= theirs.keys()
    assert "librosa" not in theirs
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    place = {"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")}
    packages = Path(sysconfig.get_path("purelib", "venv", place))
    for name, library in theirs.items():
        info = packages / f"{name.replace('-', '_')}-{library.version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(library.read_text("METADATA") or "", encoding="utf-8")
    python = sysconfig.get_path("scripts", "venv", place)
    command = [sys.executable, "-m", "pip", "--python", f"{python}/python", "install", "--dry-run", "--quiet"]
    command += ["--retries", "0", "--report", tmp_path / "report.json", "-r", REPOSITORY / "requirements.txt"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if "(from versions: none)" in done.stderr:
        pytest.skip("pip reaches no index")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    added = {canonicalize_name(each["metadata"]["name"]) for each in report["install"]}
    assert {"diffusers", "librosa"} <= added
    assert added & theirs.keys() == set()


def test_broken_libraries_of_others_stop_no_video(tmp_path: Path) -> None:
    """The templates from photo to video, and a recording that must be resampled."""
    for name in BREAKABLE:
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text("raise OSError('made for another NumPy')")
    places = {"PYTHONPATH": str(tmp_path / "broken")}
    tried = [sys.executable, "-c", "import librosa"]
    assert subprocess.run(tried, env=os.environ | places, capture_output=True, check=False).returncode == 1
    templates = (REPOSITORY / "workflows" / "api").glob("*.json")
    prompts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(templates)]
    prompts = [each for each in prompts if "Hallo3Sample" in str(each)]  # others need files
    assert len(prompts) >= 5
    for prompt in prompts:
        for each in [*prompt.values()]:
            if each["class_type"] == "Hallo3EncodeSpeech":
                each["inputs"]["audio"] = ["voice", 0]
        prompt["voice"] = node("LoadAudio", audio="voice.wav")
    server = Server(tmp_path / "server", places)
    try:
        write_wav(server.base / "input" / "voice.wav", tone(44100, 3.0), 44100)
        for prompt in prompts:
            assert server.finished(server.queue(prompt), 400)["status"]["status_str"] == "success"
    finally:
        server.stop()
