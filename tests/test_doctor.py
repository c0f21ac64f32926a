import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hallo3 import doctor
from hallo3.checkpoints.load import RELEASED_CONFIGS, build_on_meta
from hallo3.checkpoints.locate import COMFYUI, RELEASE, ModelFolder
from hallo3.cli.main import main
from hallo3.face.arcface import RECOGNIZER_FILENAME
from hallo3.face.mediapipe import TASK_FILENAME
from hallo3.face.scrfd import DETECTOR_FILENAME
from hallo3.messages import python_line
from hallo3.quantization import PRECISIONS
from hallo3.text_encoder import untie_embedding
from hallo3.units import GB
from support import onnx_builder
from support.fake_mediapipe import make_task_file
from support.sentencepiece_model import sentencepiece_model


def machine(gpu: int, memory: int) -> doctor.Machine:
    """GB of a GPU, if any, and of RAM."""
    sizes = {"memory": memory * GB, "free_disk": 900 * GB, "gpu_memory": gpu * GB}
    return doctor.Machine(gpu="Card" if gpu else "", **sizes)


@pytest.fixture
def without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan for each limit takes a second."""
    monkeypatch.setattr(doctor, "describe_limits", lambda *_: ())


def test_a_line_for_this_computer_and_for_common_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = ModelFolder(tmp_path)
    lines = doctor.describe_limits(machine(6, 64), nothing)
    assert lines[0].startswith("this GPU, 6.0 GB")
    assert [line.split(":")[0] for line in lines[1:]] == [f"--vram {gb}" for gb in doctor.COMMON_LIMITS]
    assert lines[0].split(": ", 1)[1] == lines[1].split(": ", 1)[1]
    monkeypatch.setattr(doctor, "COMMON_LIMITS", ())
    for gpu, ram, expected in (
        (3, 64, "does not fit"),
        (0, 4, "this CPU in bf16, 4.0 GB of RAM: The run does not fit"),
        (0, 16, "per step from disk"),
        (0, 64, "this CPU in fp32, 64.0 GB of RAM: everything resident"),
    ):
        assert expected in doctor.describe_limits(machine(gpu, ram), nothing)[0]


def test_the_advice_fits_the_machine() -> None:
    for gpu, memory, advice in (
        (0, 16, "No GPU"),
        (8, 64, "; as planned."),
        (18, 64, "fp8 with everything on the GPU"),
        (80, 128, "bf16, everything on the GPU"),
        (24, 16, "streams them from disk"),
    ):
        text = " ".join(doctor.advise(machine(gpu, memory), ["as planned."]))
        assert advice in text
        assert "--" not in text.replace("--vram", ""), "a manual offload would have no plan"


def test_the_doctor_names_a_pytorch_that_avoids_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "avoids_cudnn", lambda: True)
    assert "calls cuDNN directly" in " ".join(doctor.advise(machine(24, 64), ["as planned."]))
    assert "cuDNN" not in " ".join(doctor.advise(machine(0, 64), ["as planned."]))


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


MACHINE = doctor.Machine(memory=64 * GB, free_disk=50 * GB, gpu="", gpu_memory=0)
FACES = {f"face_analysis/models/{DETECTOR_FILENAME}": onnx_builder.detector()}
FACES |= {f"face_analysis/models/{RECOGNIZER_FILENAME}": onnx_builder.recognizer()}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
NOTHING: dict[str, bytes] = {}


@pytest.mark.usefixtures("without_limits")
@pytest.mark.parametrize(
    ("part", "files", "mark", "text"),
    [
        ("faces", NOTHING, "MISSING", DETECTOR_FILENAME),
        ("faces", dict(list(FACES.items())[:1]), "MISSING", RECOGNIZER_FILENAME),
        ("faces", FACES, "ok", "only with --faces-unverified"),
        ("faces", dict.fromkeys(FACES, POINTER), "WRONG", "a Git LFS pointer"),
        ("landmarks", NOTHING, "absent", TASK_FILENAME),
        ("landmarks", {f"face_analysis/models/{TASK_FILENAME}": b"PK"}, "WRONG", "not a complete archive"),
        ("vocals", NOTHING, "absent", "Kim_Vocal_2.onnx"),
        ("vocals", {"audio_separator/Kim_Vocal_2.onnx": POINTER}, "WRONG", "a Git LFS pointer"),
        ("tokenizer", NOTHING, "absent", "tokenizer"),
        ("tokenizer", {"tokenizer/spiece.model": sentencepiece_model()}, "ok", ""),
        ("tokenizer", {"t5-v1_1-xxl/spiece.model": POINTER}, "WRONG", "a Git LFS pointer"),
        ("tokenizer", {"t5-v1_1-xxl/config.json": b"{}"}, "MISSING", "no spiece.model"),
    ],
)
def test_what_is_no_component_is_opened_too(
    tmp_path: Path, part: str, files: dict[str, bytes], mark: str, text: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (found,) = (each for each in doctor.diagnose(ModelFolder(tmp_path), MACHINE).parts if each.part == part)
    assert found.mark == mark
    assert text in f"{found.state}; {found.advice}"
    assert found.size == (sum(map(len, files.values())) if found.path else 0)


@pytest.mark.usefixtures("without_limits")
def test_a_library_that_is_missing_makes_no_file_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "face_analysis/models"
    folder.mkdir(parents=True)
    for name, content in FACES.items():
        (tmp_path / name).write_bytes(content)
    (folder / TASK_FILENAME).write_bytes(make_task_file())
    for library in ("onnxruntime", "mediapipe"):
        monkeypatch.setitem(sys.modules, library, None)
    parts = {part.part: part for part in doctor.diagnose(ModelFolder(tmp_path), MACHINE).parts}
    assert (parts["faces"].mark, parts["landmarks"].mark) == ("MISSING", "absent")
    assert "pip install onnxruntime" in parts["faces"].advice
    assert "pip install mediapipe" in parts["landmarks"].advice


@pytest.mark.usefixtures("without_limits")
def test_the_disk_for_downloading_and_converting_is_said(tmp_path: Path) -> None:
    (text,) = (line for line in doctor.diagnose(ModelFolder(tmp_path), MACHINE).advice if "Disk" in line)
    assert "39.9 GB" in text
    assert "79.3 GB; 50.0 GB are free. The download may be deleted" in text


def test_the_released_sizes_are_those_of_the_networks() -> None:
    for part, published in RELEASE.items():
        tensors = untie_embedding(build_on_meta(part, RELEASED_CONFIGS[part]).state_dict())
        assert published.parameters == sum(tensor.numel() for tensor in tensors.values()), part
        eight = sum(t.numel() for name, t in tensors.items() if PRECISIONS["fp8"].is_fp8(name))
        assert published.matrices == (eight if part in ("transformer", "reference") else 0)


@pytest.mark.usefixtures("without_limits")
def test_a_random_set_under_the_released_names_is_not_ok_in_comfyui(
    tmp_path: Path, nano_folder: Path, tiny_folder: Path
) -> None:
    """Nor, for the command, a part of another model than the transformer's."""
    for folder in ("diffusion_models", "vae", "text_encoders", "audio_encoders"):
        (tmp_path / folder).mkdir()
    for part, place in COMFYUI.items():
        if part != "tokenizer":
            shutil.copy(ModelFolder(nano_folder).find(part), tmp_path / place.format(precision="bf16"))

    def marks(*, headless: bool) -> dict[str, str]:
        report = doctor.diagnose(ModelFolder(tmp_path), MACHINE, headless=headless)
        return {part.part: part.mark for part in report.parts if part.part in RELEASE}

    networks = dict.fromkeys(("transformer", "reference"), "ok")
    assert marks(headless=False) == networks | dict.fromkeys(doctor.OWN_LOADERS, "WRONG")
    report = doctor.format_report(doctor.diagnose(ModelFolder(tmp_path), MACHINE, headless=False))
    assert "a model of its own, of other sizes than the released one" in report
    assert set(marks(headless=True).values()) == {"ok"}
    shutil.copy(ModelFolder(tiny_folder).find("vae"), ModelFolder(tmp_path).find("vae"))
    assert marks(headless=True)["vae"] == "WRONG"


@pytest.mark.usefixtures("without_limits")
def test_a_file_of_random_numbers_of_wrong_shapes_is_not_ok(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    shapes = build_on_meta("vae", RELEASED_CONFIGS["vae"]).state_dict()
    save_file({name: torch.randn(2, 3) for name in shapes}, path)
    for headless in (True, False):
        report = doctor.diagnose(ModelFolder(tmp_path), MACHINE, headless=headless)
        (vae,) = (part for part in report.parts if part.part == "vae")
        assert (vae.mark, "of another shape" in vae.state) == ("WRONG", True)


@pytest.mark.usefixtures("without_limits")
def test_comfyuis_users_get_lines_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this Python, from any folder; the command's users know how to call it."""
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    models = ModelFolder(tmp_path / "Comfy UI" / "models")
    assert doctor.diagnose(models, MACHINE).commands == ()
    download, convert, install = doctor.diagnose(models, MACHINE, headless=False).commands
    package, weights = Path(doctor.__file__).parent, f"'{models.path.parent}/hallo3_weights'"
    assert download == f"{sys.executable} {package} download {weights}"
    assert convert == f"{sys.executable} {package} convert {weights} '{models.path}'"
    assert install == f"{sys.executable} -m pip install onnxruntime"
    small = doctor.diagnose(models, machine(8, 16), headless=False)
    assert small.commands[1] == f"{convert} --dtype fp8"
    assert f"  {download}\n" in doctor.format_report(small)
    assert "`hallo3 " not in doctor.format_report(small)


def test_lines_for_windows_are_quoted_where_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    for folder, line in (
        ("C:\\ComfyUI", r"C:\ComfyUI\python_embeded\python.exe -m pip"),
        ("C:\\My UI", r'& "C:\My UI\python_embeded\python.exe" -m pip  (in cmd without the first &)'),
    ):
        monkeypatch.setattr(sys, "executable", f"{folder}\\python_embeded\\python.exe")
        assert python_line("-m", "pip") == line


@pytest.mark.parametrize("options", [[], ["-I"]])
def test_such_a_line_runs_the_command(tmp_path: Path, options: list[str]) -> None:
    """Also by a Python that imports nothing from the current folder, as ComfyUI's portable one."""
    words = [sys.executable, *options, str(Path(doctor.__file__).parent), "--help"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "animate" in result.stdout
