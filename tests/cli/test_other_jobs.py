"""Any other input is another job, and the old one stays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.resume_runs import inputs_in, record_rendered, run, stop_at


@pytest.fixture
def inputs(tmp_path: Path, nano_folder: Path) -> dict[str, str]:
    return inputs_in(tmp_path, nano_folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return record_rendered(monkeypatch)


def one_pixel(inputs: dict[str, str]) -> None:
    with Image.open(inputs["--portrait"]) as picture:
        pixels = np.array(picture)
    pixels[40, 30, 1] ^= 1
    Image.fromarray(pixels).save(inputs["--portrait"])


def one_sample(inputs: dict[str, str]) -> None:
    raw = bytearray(Path(inputs["--speech"]).read_bytes())
    raw[-300] ^= 1
    Path(inputs["--speech"]).write_bytes(raw)


def one_weight(inputs: dict[str, str]) -> None:
    folder = Path(inputs["-o"]).parent / "model"
    shutil.copytree(inputs["--model"], folder)
    raw = bytearray((folder / "vae.safetensors").read_bytes())
    raw[-1] ^= 1  # the lowest bit of an exponent
    (folder / "vae.safetensors").write_bytes(raw)
    inputs["--model"] = str(folder)


CHANGES: dict[str, Any] = {
    "seed": lambda inputs: inputs.update({"--seed": "1"}),
    "steps": lambda inputs: inputs.update({"--steps": "3"}),
    "guidance": lambda inputs: inputs.update({"--guidance": "2"}),
    "sampler": lambda inputs: inputs.update({"--sampler": "ddim"}),
    "prompt": lambda inputs: inputs.update({"--prompt": "hi"}),
    "posterior": lambda inputs: inputs.update({"--posterior": "sample"}),
    "enlarge": lambda inputs: inputs.update({"--enlarge": "2"}),
    "quality": lambda inputs: inputs.update({"--quality": "30"}),
    "codec": lambda inputs: inputs.update({"--codec": "h265"}),
    "dtype": lambda inputs: inputs.update({"--dtype": "bf16"}),
    "pixel": one_pixel,
    "sample": one_sample,
    "weight": one_weight,
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_input_is_another_job_and_the_old_one_stays(
    inputs: dict[str, str], drawn: list[int], change: str
) -> None:
    patch = stop_at(1, KeyboardInterrupt())
    assert run(inputs) == 1
    kept = {name: Path(inputs[name]).read_bytes() for name in ("--portrait", "--speech")}
    other = dict(inputs)
    CHANGES[change](other)
    drawn.clear()
    assert run(other) == 1
    patch.undo()
    assert drawn == [0]
    for name, raw in kept.items():
        Path(inputs[name]).write_bytes(raw)
    drawn.clear()
    assert run(inputs) == 0
    assert drawn == [1, 2, 3]
