import json
import shutil
from pathlib import Path

import pytest

from hallo3 import doctor
from hallo3.checkpoints.load import RELEASED_CONFIGS, build_on_meta
from hallo3.checkpoints.locate import RELEASE, ModelFolder
from hallo3.cli.main import main
from hallo3.quantization import PRECISIONS
from hallo3.text_encoder import untie_embedding
from hallo3.units import GB


def test_a_line_for_this_gpu_and_for_common_limits() -> None:
    lines = doctor.describe_limits(6 * GB, 64 * GB)
    assert lines[0].startswith("this GPU, 6.0 GB")
    assert [line.split(":")[0] for line in lines[1:]] == [f"--vram {gb}" for gb in doctor.COMMON_LIMITS]
    assert lines[0].split(": ", 1)[1] == lines[1].split(": ", 1)[1]
    assert "does not fit" in doctor.describe_limits(3 * GB, 64 * GB)[0]
    assert len(doctor.describe_limits(0, 64 * GB)) == len(doctor.COMMON_LIMITS)


def test_the_advice_fits_the_machine() -> None:
    for gpu, memory, advice in (
        (0, 16, "No GPU"),
        (8, 64, "this GPU, 8.0 GB: 12 of 42 blocks"),
        (12, 64, "this GPU, 12.0 GB"),
        (3, 64, "It needs"),
        (18, 64, "fp8 with everything on the GPU"),
        (80, 128, "bf16, everything on the GPU"),
        (24, 16, "streams them from disk"),
        (0, 16, "--offload disk"),
    ):
        sizes = {"memory": memory * GB, "free_disk": 900 * GB, "gpu_memory": gpu * GB}
        text = " ".join(doctor.advise(doctor.Machine(gpu="Card" if gpu else "", **sizes)))
        assert advice in text
        assert not gpu or "--low-memory" not in text
        assert not gpu or "--offload" not in text, "a manual offload would have no plan"


def test_a_model_is_reported(tmp_path: Path, nano_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Complete; or with missing and damaged files and their places."""
    assert main(["doctor", str(nano_folder)]) == 0
    out = capsys.readouterr().out
    assert "The model is complete." in out
    assert "animate --trial" in out
    assert "  attention: auto, flash" in out
    for name in ("diffusion_models", "vae", "text_encoders", "audio_encoders"):
        (tmp_path / name).mkdir()
    (tmp_path / "diffusion_models" / "hallo3_transformer_bf16.safetensors").write_text("Not Found")
    (tmp_path / "vae" / "hallo3_vae_bf16.safetensors.aria2").touch()
    reference = ModelFolder(nano_folder).find("reference")
    shutil.copy(reference, tmp_path / "diffusion_models" / "hallo3_reference_fp8.safetensors")
    assert main(["doctor", str(tmp_path), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    parts = {part["part"]: part for part in report["parts"]}
    assert "text, beginning 'Not Found'" in parts["transformer"]["state"]
    assert parts["reference"]["state"] == "ready"
    assert "unfinished" in parts["vae"]["state"]
    assert "text_encoders/hallo3_t5xxl_bf16.safetensors" in parts["text_encoder"]["advice"]
    assert "9.5 GB" in parts["text_encoder"]["state"]
    assert main(["doctor", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().out.count("MISSING") == 5


def test_the_released_sizes_are_those_of_the_networks() -> None:
    for part, published in RELEASE.items():
        tensors = untie_embedding(build_on_meta(part, RELEASED_CONFIGS[part]).state_dict())
        assert published.parameters == sum(tensor.numel() for tensor in tensors.values()), part
        eight = sum(t.numel() for name, t in tensors.items() if PRECISIONS["fp8"].is_fp8(name))
        assert published.matrices == (eight if part in ("transformer", "reference") else 0)
