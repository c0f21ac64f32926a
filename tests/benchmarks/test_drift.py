"""Approximations of the built-in model's video, and what is said of them; PSNR and SSIM."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import drift
from benchmarks.__main__ import main
from benchmarks.drift import Variant, compare_videos, list_variants, psnr, ssim
from conftest import REPOSITORY
from hallo3.built_in import FOLDER
from hallo3.errors import InputError
from hallo3.quantization import PRECISIONS
from hallo3.settings import Settings

CPU = torch.device("cpu")
SETTINGS = Settings(steps=50, guidance_scale=3.5, sampler="dpmpp_2m_sde")
FIFTY = Variant(settings=SETTINGS, precision=PRECISIONS["bf16"], attention="auto")
Y, X = torch.arange(16, dtype=torch.float64)[:, None], torch.arange(24, dtype=torch.float64)[None]
FIRST = torch.stack(((X * 7 + Y * 3) % 11 / 10, (X + 2 * Y) % 7 / 6, (X * Y) % 5 / 4))
OTHER = torch.stack(((X * 7 + Y * 3 + 1) % 11 / 10, (X + 2 * Y) % 7 / 6 * 0.9 + 0.05, (X * Y) % 5 / 4 * 0.5))


def test_values_of_scikit_image() -> None:
    """Of its version 0.26: structural_similarity(channel_axis=0, data_range=1), peak_signal_noise_ratio."""
    for other, similarity, decibels in (
        (OTHER, 0.7130885771771434, 12.44328936694769),
        (FIRST * 0.98, 0.9995928129376783, 38.808570574143275),
        (1 - FIRST, -0.9618996893786106, 3.0922129878373767),
    ):
        assert ssim(FIRST[None], other[None]) == pytest.approx(similarity, abs=1e-9)
        assert psnr(float((FIRST - other).square().mean())) == pytest.approx(decibels, abs=0.005)


def test_the_worst_frame_is_shown() -> None:
    one = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    other = one.clone()
    assert compare_videos(one, other) == {"psnr": "equal", "worst_psnr": "equal", "ssim": 1.0}
    other[1] += 0.1
    compared = compare_videos(one, other)
    assert compared["worst_psnr"] == pytest.approx(20, abs=0.01)
    assert compared["psnr"] == pytest.approx(24.77, abs=0.01)
    for shape in ((1, 3, 6, 8), (3, 8, 8)):
        with pytest.raises(ValueError, match="cannot compare"):
            ssim(torch.zeros(1, 3, 8, 8), torch.zeros(shape))


def test_every_approximation_that_runs_here_is_a_variant_and_others_may_be_named() -> None:
    variants, skipped = list_variants(FIFTY, CPU, 64)
    assert list(variants)[:2] == ["exact", "another seed"]
    assert variants.keys() >= {"steps-30", "guidance-middle", "step-cache", "fp8"}
    assert variants["exact"] == FIFTY
    assert variants["another seed"].settings.seed == 1
    assert variants["fp8"].precision.name == "fp8"
    assert not variants.keys() & skipped.keys()
    named, others = list_variants(FIFTY, CPU, 64, ["fp8", "sage"])
    assert list(named) == ["exact", "fp8"]
    assert "runs on cuda only" in others["sage"] == skipped["sage"]
    assert others["step-cache"] == "not asked for"


def test_what_saves_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "why_unsupported", lambda backend, *_: "" if backend.name == "sage" else "no")
    one_step = Settings(steps=1, guidance_scale=1, sampler="ddim")
    variants, skipped = list_variants(replace(FIFTY, settings=one_step), CPU, 64)
    assert variants["sage"].attention == "sage"
    assert "saves nothing" in skipped["step-cache"]


def test_an_unknown_name_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    words = ["--model", str(FOLDER), "--portrait", absent, "--speech", absent, "--device", "cpu"]
    with pytest.raises(InputError, match=r"Unknown variant(.|\n)* 'stepcache'\n") as refusal:
        main(["drift", *words, "--only", "step-cache", "stepcache", "sage"])
    assert all(n in refusal.value.expected for names in list_variants(FIFTY, CPU, 64) for n in names)


def test_a_result_names_no_file_and_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, samples = tmp_path / "result.json", REPOSITORY / "samples"
    files = ["--portrait", samples / "portrait.png", "--speech", samples / "speech.wav", "--seconds", "1.3"]
    run = ["--steps", "6", "--guidance", "3.5", "--only", "guidance-middle", "fp8", "--prompt", "A person."]
    assert main(["drift", "--model", str(FOLDER), *map(str, files), *run, "--json", str(path)]) == 0
    result: dict[str, Any] = json.loads(path.read_text())
    shown = capsys.readouterr().out
    for text in (shown, path.read_text()):
        for private in ("samples", "portrait.png", "speech.wav", "A person", str(FOLDER), str(tmp_path)):
            assert private not in text
    assert json.loads(shown.split("```json\n")[1].split("\n```")[0]) == result
    assert result["made"].items() >= {"model": "built-in", "frames": 33, "segments": 2, "steps": 6}.items()
    rows = result["ways"]
    assert all(name in shown for name in (*rows, "skipped:", "not asked for"))
    counts = {name: row["evaluations"] for name, row in rows.items()}
    assert list(counts) == ["exact", "guidance-middle", "fp8"]
    assert counts["guidance-middle"] < counts["exact"] == counts["fp8"] == 24
    assert "psnr" not in rows["exact"]
    assert 25 < rows["fp8"]["psnr"] >= rows["fp8"]["worst_psnr"]
    assert 0.8 < rows["fp8"]["ssim"] <= 1
    assert rows["exact"].keys() >= {"follows", "silent", "colour", "seam", "sharpness", "movement", "seconds"}
