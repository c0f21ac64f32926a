"""Landmarks by ComfyUI's own MediaPipe port: its real code, with random weights or fixed outputs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.host import Host
from support.messages import collect_messages

PICTURE = torch.rand(3, 256, 512, generator=torch.Generator().manual_seed(4))
NAME = "mediapipe_face_fp32.safetensors"
RING = torch.tensor([[0, 1], [1, 2], [2, 0]], dtype=torch.int32)
TOPOLOGY = (
    *("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow"),
    *("lips", "irises", "nose", "tesselation"),
)


def tensors() -> dict[str, Tensor]:
    """What the published file holds, by its names, with random numbers."""
    from comfy_extras.mediapipe.face_landmarker import FaceLandmarker

    torch.manual_seed(2)
    state = {f"topology.{name}": RING.clone() for name in TOPOLOGY}
    state |= {"canonical_vertices": torch.rand(478, 3), "procrustes_weights": torch.rand(4)}
    state["procrustes_indices"] = torch.arange(4)
    for variant in ("short", "full"):
        network = FaceLandmarker(detector_variant=variant)
        for name, tensor in network.state_dict().items():
            state[name.replace("detector.", f"detector_{variant}.", 1)] = tensor.clone()
    return state


@pytest.fixture
def folder(host: Host) -> Iterator[Path]:
    """ComfyUI's models/detection, empty before and after."""
    import folder_paths

    there = Path(folder_paths.get_folder_paths("detection")[0])
    there.mkdir(parents=True, exist_ok=True)
    assert host.base in there.parents
    yield there
    for path in there.iterdir():
        path.unlink()
    folder_paths.filename_list_cache.clear()


def write(path: Path, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(state, str(path))


def found_at(host: Host, *edges: float) -> Any:
    box = host.module("hallo3.geometry").PixelBox(*edges)
    return host.module("hallo3.face.scrfd").DetectedFace(box, 0.9, torch.zeros(5, 2))


def finder_of(host: Host, folder: Path | None = None) -> Any:
    return host.module("nodes.comfy.faces").find_landmarks(folder)


def answering(monkeypatch: pytest.MonkeyPatch, *, share: float = 0.125, presence: float = 3.0) -> None:
    """The port's networks know one upright face, in the ninth of 16 columns and rows of the square that is
    looked at, so large a share of it. The landmarks reach from edge to edge of its box."""
    from comfy_extras.mediapipe import face_landmarker as port

    def detect(_: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = torch.zeros(len(pictures), 896, 16), torch.full((len(pictures), 896, 1), -9.0)
        boxes[..., 2:4] = 128 * share
        boxes[..., 4:8] = torch.tensor([-4.0, -2.0, 4.0, -2.0])  # the eyes, level
        scores[:, (8 * 16 + 8) * 2] = 5.0  # two anchors a cell
        return boxes, scores

    def draw(_: Any, crops: Tensor) -> tuple[Tensor, Tensor]:
        points = torch.full((len(crops), 478, 3), 96.0)
        points[:, 10], points[:, 152] = torch.tensor([32.0, 32, 0]), torch.tensor([160.0, 160, 0])
        return points, torch.full((len(crops),), presence)

    monkeypatch.setattr(port.BlazeFace, "forward", detect)
    monkeypatch.setattr(port.FaceMesh, "forward", draw)


def test_landmarks_of_a_known_face_are_exact(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell 8 of 16 on a square of 512 px around a picture of 256 px: the middle is (272, 272 - 128)."""
    write(folder / NAME, tensors())
    answering(monkeypatch)
    points = finder_of(host)(PICTURE, found_at(host, 240, 112, 304, 176))
    assert points.shape == (478, 2)
    assert torch.allclose(points[10], torch.tensor([240.0, 112]).double(), atol=1e-3)
    assert torch.allclose(points[152], torch.tensor([304.0, 176]).double(), atol=1e-3)
    assert torch.allclose(points[0], torch.tensor([272.0, 144]).double(), atol=1e-3)
    box = host.module("hallo3.face.landmarks").silhouette_box(points)
    assert box == (240, 112, 304, 176)


def test_a_small_face_is_found_on_a_crop_around_it(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is 50 px per side, from (85, 85) on; the middle of its ninth cell is 26.5625 px from there."""
    write(folder / NAME, tensors())
    answering(monkeypatch, share=0.4)
    found = found_at(host, 100, 100, 120, 120)
    points = finder_of(host)(PICTURE, found)
    assert torch.allclose(points[10], torch.tensor([101.5625] * 2).double(), atol=1e-3)
    assert torch.allclose(points[152], torch.tensor([121.5625] * 2).double(), atol=1e-3)
    answering(monkeypatch)
    assert finder_of(host)(PICTURE, found) is None  # of 6 px: somebody else


@pytest.mark.parametrize(
    ("edges", "presence"),
    [((0, 0, 64, 64), 3.0), ((240, 112, 304, 176), -0.1)],
    ids=["elsewhere", "doubtful"],
)
def test_other_and_uncertain_faces_have_no_landmarks(
    host: Host,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    edges: tuple[float, float, float, float],
    presence: float,
) -> None:
    write(folder / NAME, tensors())
    answering(monkeypatch, presence=presence)
    assert finder_of(host)(PICTURE, found_at(host, *edges)) is None


def test_random_weights_run_through_the_whole_port(
    host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tensors()
    state["detector_short.cls_16.bias"] = torch.full_like(state["detector_short.cls_16.bias"], 9)
    state["mesh.head_presence.bias"] = torch.full_like(state["mesh.head_presence.bias"], 9)
    write(folder / "my_MediaPipe_Face.safetensors", state)
    module = host.module("nodes.comfy.faces")
    landmarks: list[Tensor] = []

    def keep(port: Any, levels: Tensor) -> list[Tensor]:
        landmarks.extend(faces := look(port, levels))
        return faces

    look = module._detect_landmarks
    monkeypatch.setattr(module, "_detect_landmarks", keep)
    finder_of(host)(PICTURE, found_at(host, 0, 0, 512, 256))
    assert len(landmarks) > 3
    assert all(points.shape == (478, 2) and points.isfinite().all() for points in landmarks)


def incomplete(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "mesh.stem.weight"}


def misshapen(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"mesh.stem.weight": torch.zeros(1)}


def of_another_model(_: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            incomplete,
            ["ComfyUI's MediaPipe port cannot", "1 tensors are missing, the first is mesh.stem.weight"],
        ),
        (misshapen, ["ComfyUI's MediaPipe port cannot", "size mismatch"]),
        (of_another_model, ["ComfyUI's MediaPipe port cannot", "KeyError"]),
        (None, [f"no {NAME} in ComfyUI's models/detection", "Comfy-Org/mediapipe on huggingface.co"]),
    ],
)
def test_without_a_usable_model_the_box_is_the_mask_and_the_user_is_warned(
    host: Host, folder: Path, change: Any, messages: list[str]
) -> None:
    if isinstance(change, bytes):
        (folder / NAME).write_bytes(change)
    elif change is not None:
        write(folder / NAME, change(tensors()))
    face, warnings = analyze(host, finder_of(host))
    assert face.mask[112:176, 240:304].all()
    assert len(warnings) == 1
    assert all(message in warnings[0] for message in messages)


def test_without_the_model_or_the_port_the_package_s_file_is_used(
    host: Host, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = host.module("hallo3.face.mediapipe")
    (tmp_path / package.TASK_FILENAME).write_bytes(b"not read yet")
    assert finder_of(host, tmp_path) == package.MediaPipeLandmarks(tmp_path / package.TASK_FILENAME)
    write(folder / NAME, tensors())
    assert finder_of(host, tmp_path).model == folder / NAME
    monkeypatch.setitem(sys.modules, "comfy_extras.nodes_mediapipe", None)
    assert finder_of(host) is None
    assert finder_of(host, tmp_path) == package.MediaPipeLandmarks(tmp_path / package.TASK_FILENAME)


def test_the_pack_s_analyzer_uses_the_port(
    host: Host, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = host.module("nodes.comfy.faces")
    monkeypatch.setattr(faces, "faces_folder", lambda: tmp_path)
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (tmp_path / name).write_bytes(b"not read yet")
    write(folder / NAME, tensors())
    config = host.module("hallo3.config").FaceConfig
    assert faces.create_face_analyzer(config()).landmarks.model == folder / NAME
    assert faces.create_face_analyzer(config(space="drawn-face")).space == "drawn-face"


def analyze(host: Host, finder: Any) -> tuple[Any, list[str]]:
    """A face at a known position, and the warnings."""
    detector = host.module("hallo3.face.scrfd")
    eyes_nose_mouth = torch.tensor([[258.0, 134], [286, 134], [272, 146], [262, 160], [282, 160]])
    found = detector.DetectedFace(
        host.module("hallo3.geometry").PixelBox(240, 112, 304, 176), 0.9, eyes_nose_mouth
    )
    analyzer = host.module("hallo3.face.photo").PhotographAnalyzer(
        detect=lambda _: [found], embed=lambda *_: torch.ones(1, 512), landmarks=finder
    )
    with collect_messages() as messages:
        face = analyzer.analyze(PICTURE)
    return face, [message for message in messages if "small" not in message]
