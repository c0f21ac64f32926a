"""What an owner of weights is told, on the built-in model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import drift_ways
from benchmarks.__main__ import main
from benchmarks.drift_ways import Way, chosen, ways
from conftest import REPOSITORY
from hallo3.attention import AttentionBackend
from hallo3.built_in import FOLDER
from hallo3.errors import InputError
from hallo3.quantization.precision import PRECISIONS
from hallo3.settings import Settings

CPU = torch.device("cpu")
FIFTY = Way(
    settings=Settings(steps=50, guidance_scale=3.5, sampler="dpmpp_2m_sde"),
    precision=PRECISIONS["bf16"],
    attention="auto",
)


def test_every_approximation_that_runs_here_is_a_way() -> None:
    found, left = ways(FIFTY, CPU, 64)
    assert list(found)[:2] == ["exact", "another seed"]
    assert found.keys() >= {"steps-30", "guidance-middle", "step-cache", "fp8"}
    assert found["exact"] == FIFTY
    assert found["another seed"].settings.seed == 1
    assert found["fp8"].precision.name == "fp8"
    assert "runs on cuda only" in left["sage"]
    assert not found.keys() & left.keys()


def test_what_saves_nothing_and_what_a_card_cannot_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(backend: AttentionBackend, *_: object) -> str:
        return "" if backend.name == "sage" else "no"

    monkeypatch.setattr(drift_ways, "why_unsupported", why)
    one = Way(
        settings=Settings(steps=1, guidance_scale=1, sampler="ddim"),
        precision=FIFTY.precision,
        attention="auto",
    )
    found, left = ways(one, torch.device("cuda"), 64)
    assert found["sage"].attention == "sage"
    assert "saves nothing" in left["step-cache"]


def test_a_name_that_is_none_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    words = ["--model", str(FOLDER), "--portrait", absent, "--speech", absent, "--device", "cpu"]
    with pytest.raises(InputError, match="no such way") as refused:
        main(["drift", *words, "--only", "step-cache", "stepcache", "sage"])
    assert refused.value.found == "'stepcache'"
    found, left = ways(FIFTY, CPU, 64)
    assert all(name in refused.value.expected for name in (*found, *left))


def test_what_cannot_run_here_may_be_asked_for_and_is_told() -> None:
    found, left = chosen(FIFTY, CPU, 64, ["fp8", "sage"])
    assert list(found) == ["exact", "fp8"]
    assert "runs on cuda only" in left["sage"]
    assert left["step-cache"] == "not asked for"
    assert chosen(FIFTY, CPU, 64, []) == ways(FIFTY, CPU, 64)


def test_a_result_can_be_shown_to_anybody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    samples = REPOSITORY / "samples"
    words = ["--portrait", samples / "portrait.png", "--speech", samples / "speech.wav", "--seconds", "1.3"]
    run = ["--steps", "6", "--guidance", "3.5", "--only", "guidance-middle", "fp8", "--prompt", "A person."]
    assert main(["drift", "--model", str(FOLDER), *map(str, words), *run, "--json", str(path)]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    said = capsys.readouterr().out
    for text in (said, path.read_text()):
        for private in ("samples", "portrait.png", "speech.wav", "A person", str(FOLDER), str(tmp_path)):
            assert private not in text
    assert json.loads(said.split("```json\n")[1].split("\n```")[0]) == found
    assert found["made"] | {"attention": ""} == {
        "model": "built-in",
        "frames": 33,
        "segments": 2,
        "size": "64 x 64",
        "steps": 6,
        "guidance": 3.5,
        "sampler": "ddim",
        "seed": 0,
        "type": "fp32",
        "attention": "",
    }
    rows = found["ways"]
    assert list(rows) == ["exact", "guidance-middle", "fp8"]
    assert all(name in said for name in (*rows, "left out:", "not asked for"))
    assert (rows["exact"]["evaluations"], rows["fp8"]["evaluations"]) == (24, 24)
    assert rows["guidance-middle"]["evaluations"] < 24
    assert "psnr" not in rows["exact"]
    assert rows["fp8"]["psnr"] > 25
    assert rows["fp8"]["worst_psnr"] <= rows["fp8"]["psnr"]
    assert 0.8 < rows["fp8"]["ssim"] <= 1
    assert rows["exact"].keys() >= {"follows", "silent", "colour", "seam", "sharpness", "movement", "seconds"}
    assert found["machine"]["device"].startswith("CPU")
    assert found["left out"]["step-cache"] == "not asked for"
