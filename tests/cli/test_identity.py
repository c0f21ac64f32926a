"""Portraits of any shape, and identities that are kept, through the command."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3 import attention as backends
from hallo3.attention import AttentionBackend
from hallo3.checkpoints.random_weights import write_random_set
from hallo3.identity import Provenance
from hallo3.identity_file import read_identity
from hallo3.model.layers import sdpa
from support.audio_samples import tone, write_wav
from support.resume_runs import frames_of, run


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    write_random_set(tmp_path / "model", 1, "nano")
    drawn = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(drawn).save(tmp_path / "p.png")
    tall = np.full((320, 180, 3), 90, np.uint8)
    tall[90:170, 50:120] = 200, 150, 120
    Image.fromarray(tall).save(tmp_path / "tall.png")
    write_wav(tmp_path / "s.wav", tone(16000, 0.6), 16000)
    names = {"--model": "model", "--portrait": "p.png", "--speech": "s.wav", "-o": "v.mp4"}
    return {name: str(tmp_path / value) for name, value in names.items()}


def colours_of(path: str) -> np.ndarray:
    with av.open(path) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def test_a_kept_identity_makes_the_same_video_without_the_reference_network(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    path = str(tmp_path / "anna.safetensors")
    assert run(inputs, save_identity=path) == 0
    first = frames_of(inputs["-o"])
    (tmp_path / "model" / "reference.safetensors").unlink()
    kept = {name: value for name, value in inputs.items() if name != "--portrait"}
    kept["-o"] = str(tmp_path / "again.mp4")
    assert run(kept, identity=path) == 0
    assert np.array_equal(frames_of(kept["-o"]), first)


def test_an_identity_is_kept_of_a_video_that_is_finished(inputs: dict[str, str], tmp_path: Path) -> None:
    assert run(inputs) == 0
    path = tmp_path / "anna.safetensors"
    assert run(inputs, save_identity=str(path)) == 0
    assert path.is_file()


def test_an_identity_is_refused_by_another_model(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "anna.safetensors")
    assert run(inputs, save_identity=path) == 0
    write_random_set(tmp_path / "other", 2, "nano")
    kept = {name: value for name, value in inputs.items() if name != "--portrait"}
    assert run(kept | {"--model": str(tmp_path / "other")}, identity=path) == 2
    assert "made for another model" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["portrait", "save_identity"])
def test_two_answers_to_who_speaks_are_refused(
    other: str, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "anna.safetensors")
    assert run(inputs, save_identity=path) == 0
    kept = {name: value for name, value in inputs.items() if name != "--portrait"}
    more = {"save_identity": str(tmp_path / "b.safetensors")} if other == "save_identity" else {}
    assert run(inputs if other == "portrait" else kept, identity=path, **more) == 2
    assert "not both" in capsys.readouterr().err


def test_nobody_to_speak_is_said(inputs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    del inputs["--portrait"]
    assert run(inputs) == 2
    assert "--identity" in capsys.readouterr().err


def test_a_tall_photograph_comes_out_tall(inputs: dict[str, str], tmp_path: Path) -> None:
    tall = inputs | {"--portrait": str(tmp_path / "tall.png")}
    box = {"face_box": "55,95,115,165"}
    assert run(tall, "--paste-back", preview=str(tmp_path / "shown.png"), **box) == 0
    whole = colours_of(inputs["-o"])
    assert whole.shape[1:3] == (320, 180)
    with Image.open(tmp_path / "shown.png") as shown:
        assert min(shown.size) > 100
    picture = np.asarray(Image.open(tmp_path / "tall.png"), np.float32)
    still = np.abs(whole.astype(np.float32) - picture).mean(axis=(0, 3))
    assert max(still[:20].max(), still[-60:].max()) < 12  # what is not in the crop does not move
    assert run(tall, framing="original", **box) == 0
    assert colours_of(inputs["-o"]).shape[1:3] == (32, 32)


def test_what_is_asked_of_the_portrait_makes_another_video(inputs: dict[str, str], tmp_path: Path) -> None:
    tall = inputs | {"--portrait": str(tmp_path / "tall.png")}
    found: list[bytes] = []
    for asked in ({"framing": "original"}, {"face_box": "55,95,115,165"}, {"face_box": "55,195,115,265"}):
        assert run(tall, **asked) == 0
        found.append(frames_of(inputs["-o"]).tobytes())
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("face_box", "1,2,3", "box cannot be read"),
        ("face_box", "9,2,3,4", "box cannot be read"),
        ("face_box", "a,b,c,d", "box cannot be read"),
        ("face_box", "500,500,600,600", "box cannot be used"),
        ("preview", "absent/x.png", "cannot be written"),
        ("preview", "x.jpg", "cannot be written"),
        ("save_identity", "x.bin", "cannot be written"),
        ("identity", "absent.safetensors", "cannot be opened"),
        ("framing", "face", "no face to frame"),
    ],
)
def test_what_cannot_be_is_refused(
    option: str, value: str, said: str, inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    if option == "identity":
        del inputs["--portrait"]
    assert run(inputs, **{option: value}) == 2
    assert said in capsys.readouterr().err


def test_pasted_back_frames_are_not_enlarged(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, "--paste-back", enlarge="2") == 2
    assert "--enlarge 2 with --paste-back" in capsys.readouterr().err


def carried(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("note: the identity was made with")]


def test_an_approximate_attention_is_noted_too(
    inputs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A CPU computes none; torch's own stands for one."""
    stand_in = AttentionBackend(name="sage", attend=sdpa, exact=False)
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, "sage": stand_in})
    path = tmp_path / "anna.safetensors"
    assert run(inputs, attention="sage", save_identity=str(path)) == 0
    assert read_identity(path).provenance == Provenance("fp32", ("attention sage",))
    capsys.readouterr()
    kept = {name: value for name, value in inputs.items() if name != "--portrait"}
    for attention, warned in (("auto", True), ("math", True), ("sage", False)):
        assert run(kept, "--plan", identity=str(path), attention=attention) == 0
        said = carried(capsys.readouterr().err)
        assert len(said) == warned
        assert all("attention sage (approximate)" in line for line in said)
