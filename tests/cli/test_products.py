"""Products in eight bits by the command: told what they are, refused where they cannot be, and rendered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hallo3 import doctor
from hallo3 import loading as load
from hallo3.built_in import FOLDER
from hallo3.cli.main import main
from support.resume_runs import inputs_in, run

GB = 1_000_000_000
APPROXIMATE = "8-bit products; untested on real weights"


@pytest.mark.parametrize("dtype", ["fp8-products", "int8"])
def test_a_video_is_rendered_and_called_approximate(
    tmp_path: Path, tiny_folder: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """TINY's widths are 12 and 20 in places, which no device multiplies as they are."""
    inputs = inputs_in(tmp_path, tiny_folder) | {"--dtype": dtype, "--steps": "1"}
    assert run(inputs) == 0
    err = capsys.readouterr().err
    assert err.count(APPROXIMATE) == 1
    assert Path(inputs["-o"]).stat().st_size > 0


@pytest.mark.parametrize("dtype", ["int8", "fp8-products", "fp8", "bf16"])
def test_with_the_built_in_model_they_have_been_tried(
    dtype: str,
    capsys: pytest.CaptureFixture[str],
    samples: Path,
) -> None:
    inputs = {"--portrait": str(samples / "portrait.png"), "--speech": str(samples / "speech.wav")}
    words = [word for pair in inputs.items() for word in pair]
    assert main(["animate", *words, "--model", str(FOLDER), "--dtype", dtype, "--plan"]) == 0
    assert APPROXIMATE not in capsys.readouterr().err


def test_a_device_that_cannot_is_refused_before_anything_is_loaded(
    tmp_path: Path,
    nano_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 6))
    monkeypatch.setattr(load, "read_component", None)
    inputs = inputs_in(tmp_path, nano_folder) | {"--dtype": "fp8-products", "--device": "cuda"}
    assert run(inputs) == 2
    err = capsys.readouterr().err
    assert "compute capability 8.6" in err
    assert "8.9 or more" in err


@pytest.mark.parametrize(
    ("gpu", "capability", "said"),
    [
        ("", (0, 0), "fp8-products or int8) run on the CPU"),
        ("Card", (8, 6), "--dtype int8) run on this GPU"),
        ("Card", (9, 0), "fp8-products or int8) run on this GPU"),
        ("Card", (0, 0), "fp8-products or int8) do not run on this GPU"),
    ],
)
def test_doctor_says_which_run_here(gpu: str, capability: tuple[int, int], said: str) -> None:
    machine = doctor.Machine(
        memory=64 * GB, free_disk=900 * GB, gpu=gpu, gpu_memory=24 * GB, capability=capability
    )
    assert said in " ".join(doctor.advise(machine))
