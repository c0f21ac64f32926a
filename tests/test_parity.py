"""The package equals the recorded runs of the original; the comparison finds wrong numbers."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import parity
from golden_checks.directory import goldens

GOLDEN = Path(__file__).parent / "golden"
HANDLED = {golden.name: golden for golden in goldens(GOLDEN) if not golden.name.startswith("weights_")}


@pytest.mark.parametrize("name", HANDLED)
def test_every_golden_passes(name: str) -> None:
    verdict = parity.judge(HANDLED[name])
    assert verdict.verdict == "pass", verdict.line()


def test_no_golden_is_missing() -> None:
    assert len(HANDLED) == 22


def copy_goldens(folder: Path, *names: str) -> None:
    for path in (path for name in names for path in GOLDEN.glob(f"{name}.*")):
        shutil.copy(path, folder)


def test_a_wrong_number_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy_goldens(tmp_path, "vae_decode_onego", "weights_vae_decoder", "sampler_toy_8steps")
    path = tmp_path / "sampler_toy_8steps.safetensors"
    tensors = load_file(path)
    tensors["out.final"][0, 0, 0, 0, 0] += 2e-4
    save_file(tensors, path)
    assert parity.main([str(tmp_path), "--json", str(tmp_path / "verdicts.txt")]) == 1
    verdicts = {v["name"]: v["verdict"] for v in json.loads((tmp_path / "verdicts.txt").read_text())}
    assert verdicts == {"sampler_toy_8steps": "FAIL", "vae_decode_onego": "pass"}
    assert "FAIL" in capsys.readouterr().out


def test_nothing_recognised_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text('{"what": "something else"}')
    assert parity.main([str(tmp_path)]) == 1
    assert "not handled" in capsys.readouterr().out


BROKEN = b'{"tensors": {', bytes(range(256)), b"[1, 2]", b'{"tensors": null}', b'{"cases": {}}'


def test_broken_descriptions_stop_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy_goldens(tmp_path, "sampler_toy_8steps")
    for number, content in enumerate(BROKEN):
        (tmp_path / f"{number}.json").write_bytes(content)
    assert parity.main([str(tmp_path)]) == 1
    assert "1 pass, 4 FAIL, 1 not handled" in capsys.readouterr().out
    assert parity.main([str(tmp_path / "absent")]) == 1
    (tmp_path / "sampler_toy_8steps.safetensors").unlink()
    assert parity.main([str(tmp_path)]) == 1
    assert "5 FAIL" in capsys.readouterr().out
