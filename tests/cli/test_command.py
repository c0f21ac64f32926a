"""The command: what it prints, what it writes, what it refuses and how."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hallo3 import loading as load
from hallo3.cli.main import main
from support.audio_samples import RATE, tone, write_wav
from support.resume_runs import frames_of


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    """Options of a good run: 0.72 s of tone, a small picture, NANO weights."""
    picture = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)).save(picture)
    return {
        "--portrait": str(picture),
        "--speech": str(write_wav(tmp_path / "s.wav", tone(RATE, 0.72), RATE)),
        "--model": str(nano_folder),
        "-o": str(tmp_path / "out.mp4"),
    }


def run(inputs: dict[str, str], *flags: str, **changes: str | None) -> int:
    options = inputs | {f"--{name}": value for name, value in changes.items()}
    words = [word for name, value in options.items() if value is not None for word in (name, value)]
    return main(["animate", *words, *flags])


def no_weights(*_: object, **__: object) -> None:
    raise AssertionError("weights were read")


def test_a_video_with_sound_appears(inputs: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(inputs, prompt="hi", seed=str(2**64 - 1)) == 0
    out, err = capfd.readouterr()
    assert "18 frames, 0.72 s, 32 x 32" in out
    assert "4/4" in err
    assert "segment 2/2" in err
    assert "Traceback" not in err
    with av.open(inputs["-o"]) as container:
        assert len(list(container.decode(video=0))) == 18
    with av.open(inputs["-o"]) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert float(np.abs(heard).max()) > 0.3
    names = sorted(path.name for path in Path(inputs["-o"]).parent.iterdir())
    assert names == ["hallo3_jobs", "out.mp4", "p.png", "s.wav"]


def test_a_seed_gives_the_same_video_again(inputs: dict[str, str]) -> None:
    videos = []
    for seed in ("1", "1", "2"):
        assert run(inputs, seed=seed) == 0
        videos.append(frames_of(inputs["-o"]))
    assert np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])
    assert run(inputs, "--low-memory", seed="1") == 0
    assert np.abs(frames_of(inputs["-o"]).astype(int) - videos[0]).mean() < 1


def test_the_plan_is_the_bill_and_renders_nothing(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "read_component", no_weights)
    del inputs["-o"]
    assert run(inputs, "--plan", "--json", steps="7", guidance="1") == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said.pop("disk") == said.pop("job") + said.pop("video") > 0
    assert (said.pop("attention"), said.pop("memory") > 2**29) == ("auto", True)
    assert [said.pop(name) for name in ("render_seconds", "measured", "grows")] == [None, False, False]
    assert said == {
        "model": "nano",
        "segments": 2,
        "frames": 18,
        "seconds": 0.72,
        "width": 32,
        "height": 32,
        "fps": 25,
        "steps": 7,
        "guidance_scale": 1.0,
        "sampler": "dpmpp_2m_sde",
        "network_evaluations": 14,
    }
    assert err == ""
    assert run(inputs, "--plan", steps="7") == 0
    assert "28 evaluations" in capsys.readouterr().out


def test_frames_are_enlarged_when_they_are_written(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, "--plan", "--json", enlarge="16") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["width"], plan["height"]) == (512, 512)
    assert run(inputs, steps="1", enlarge="3") == 0
    assert "96 x 96" in capsys.readouterr().out
    assert frames_of(inputs["-o"]).shape == (18, 96 * 3 // 2, 96)  # yuv420p


REFUSED = {
    "no portrait": ({"portrait": "absent.png"}, "no file absent.png"),
    "portrait is a folder": ({"portrait": "."}, "no file ."),
    "no speech": ({"speech": "absent.wav"}, "no file absent.wav"),
    "no model": ({"model": "absent"}, "transformer.safetensors"),
    "steps 0": ({"steps": "0"}, "1 to 1000"),
    "steps negative": ({"steps": "-3"}, "1 to 1000"),
    "steps too many": ({"steps": "1000000"}, "1 to 1000"),
    "guidance NaN": ({"guidance": "nan"}, "guidance scale"),
    "guidance infinite": ({"guidance": "inf"}, "guidance scale"),
    "guidance negative": ({"guidance": "-1"}, "guidance scale"),
    "seed negative": ({"seed": "-1"}, "2^64"),
    "seed too large": ({"seed": str(2**64)}, "2^64"),
    "unknown sampler": ({"sampler": "euler"}, "dpmpp_2m_sde or ddim"),
    "enlarge 0": ({"enlarge": "0"}, "1 to 16"),
    "enlarge 17": ({"enlarge": "17"}, "1 to 16"),
    "not an mp4": ({"output": "video.avi"}, ".mp4"),
    "no output folder": ({"output": "absent/video.mp4"}, "no folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_weights_are_read(
    inputs: dict[str, str], case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "read_component", no_weights)
    changes, message = REFUSED[case]
    if "output" in changes:
        del inputs["-o"]
    assert run(inputs, **changes) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Found:" in err
    assert "Fix:" in err
    assert "Traceback" not in err
    assert out == ""


def test_words_that_are_no_numbers_are_refused(inputs: dict[str, str]) -> None:
    for name, value in (("steps", "many"), ("guidance", "much"), ("seed", "1.5"), ("enlarge", "1.5")):
        with pytest.raises(SystemExit) as refusal:
            run(inputs, **{name: value})
        assert refusal.value.code == 2


def test_a_folder_that_cannot_be_written_is_refused(
    inputs: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def locked(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", locked)
    assert run(inputs) == 2
    assert f"{tmp_path}: Permission denied" in capsys.readouterr().err


def test_an_input_is_never_overwritten(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(Path(inputs["--speech"]).read_bytes())
    inputs["-o"] = str(film)
    assert run(inputs, speech=str(film)) == 2
    assert "is an input" in capsys.readouterr().err
    assert film.read_bytes() == (tmp_path / "s.wav").read_bytes()


def test_speech_and_portraits_that_cannot_work_are_refused(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_wav(tmp_path / "short.wav", tone(RATE, 0.039), RATE)
    assert run(inputs, speech=str(short)) == 2
    assert "at least one video frame" in capsys.readouterr().err
    dot = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(dot)
    assert run(inputs, portrait=str(dot)) == 2
    assert "64 px" in capsys.readouterr().err
    assert run(inputs, portrait=inputs["--speech"]) == 2
    assert run(inputs, speech=inputs["--portrait"]) == 2


def test_an_older_video_survives_a_refusal(inputs: dict[str, str]) -> None:
    Path(inputs["-o"]).write_bytes(b"older")
    assert run(inputs, steps="0") == 2
    assert Path(inputs["-o"]).read_bytes() == b"older"


def test_an_unexpected_error_is_one_and_has_no_traceback(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("bit rot\nin detail")

    monkeypatch.setattr("hallo3.cli.renderer.load_models", broken)
    assert run(inputs) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: bit rot" in err
    assert "Traceback" not in err
    assert run(inputs, "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr("hallo3.cli.renderer.load_models", interrupted)
    assert run(inputs) == 1
    assert capsys.readouterr().err.endswith("Stopped.\n")


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_was_rendered_before_an_interrupt_is_kept(
    inputs: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hallo3.sampling import samplers

    real = samplers.SAMPLERS["dpmpp_2m_sde"]
    runs: list[int] = []

    def second_time_never(*arguments):
        runs.append(1)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setitem(samplers.SAMPLERS, "dpmpp_2m_sde", second_time_never)
    assert run(inputs) == 1
    so_far = next(Path(inputs["-o"]).parent.glob("hallo3_jobs/*/so_far.mp4"))
    assert len(frames_of(so_far)) == 15
    assert "so_far.mp4" in capsys.readouterr().err


def test_tiny_writes_a_set_that_animates(
    tmp_path: Path, inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    assert main(["tiny", str(folder), "--seed", "3", "--size", "nano"]) == 0
    assert "random nano weights" in capsys.readouterr().out
    assert run(inputs, model=str(folder)) == 0
    assert main(["tiny", str(tmp_path), "--seed", "3"]) == 2
    assert main(["tiny", str(folder), "--seed", "-3"]) == 2
