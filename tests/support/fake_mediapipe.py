"""A stand-in for MediaPipe's package, as far as it is used, and for its file.

The real package is 33 MB, and its file of networks is in no package of its makers.
"""

import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3.face.analyzer import Face
from hallo3.face.photo import PhotographAnalyzer
from hallo3.face.scrfd import DetectedFace
from hallo3.geometry import PixelBox
from support.messages import collect_messages

PICTURE = torch.rand(3, 300, 400, generator=torch.Generator().manual_seed(5))
EYES_NOSE_MOUTH = torch.tensor([[130.0, 110], [170, 110], [150, 130], [135, 155], [165, 155]])
DETECTED = DetectedFace(PixelBox(100, 60, 200, 180), 0.9, EYES_NOSE_MOUTH)

Detect = Callable[[np.ndarray[Any, Any]], Sequence[Tensor]]


def make_landmarks(left: float, top: float, right: float, bottom: float) -> Tensor:
    """Landmarks [478, 2] whose outline fills a box, in pixels."""
    turn = torch.linspace(0, 2 * torch.pi, 478, dtype=torch.float64)
    circle = torch.stack((turn.cos(), turn.sin()), dim=1)
    circle[10], circle[152] = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])
    low, high = torch.tensor([left, top]), torch.tensor([right, bottom])
    return (low + high) / 2 + circle * (high - low) / 2


def make_task_file(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("face_detector", "face_landmarks_detector"):
            archive.writestr(f"{name}.tflite", members.get(name, b"numbers of a network " * 40))
    return content.getvalue()


class Landmarker:
    def __init__(self, detect: Detect) -> None:
        self._detect, self.closed = detect, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def detect(self, image: Any) -> Any:
        """Landmarks are shares of the picture's width and height."""
        assert image.data.dtype == np.uint8
        assert image.data.flags.c_contiguous
        height, width, channels = image.data.shape
        assert channels == 3
        faces = [
            [SimpleNamespace(x=float(x) / width, y=float(y) / height, z=0.0) for x, y in face]
            for face in self._detect(image.data)
        ]
        return SimpleNamespace(face_landmarks=faces)


class MediaPipe(ModuleType):
    """Tasks' vision API of versions 0.10.21 to 1.2."""

    def __init__(self, detect: Detect, version: str = "0.10.31") -> None:
        super().__init__("mediapipe")
        self.__spec__, self.__version__ = ModuleSpec("mediapipe", None), version
        self.landmarkers: list[Landmarker] = []
        self.content = b""
        self.Image, self.ImageFormat = SimpleNamespace, SimpleNamespace(SRGB="srgb")

        def create(options: Any) -> Landmarker:
            self.content = options.base_options.model_asset_buffer
            self.landmarkers.append(Landmarker(detect))
            return self.landmarkers[-1]

        landmarker = SimpleNamespace(create_from_options=create)
        vision = SimpleNamespace(FaceLandmarkerOptions=SimpleNamespace, FaceLandmarker=landmarker)
        self.tasks = SimpleNamespace(BaseOptions=SimpleNamespace, vision=vision)


def install_mediapipe(
    monkeypatch: pytest.MonkeyPatch, detect: Detect = lambda _: [], version: str = "0.10.31"
) -> MediaPipe:
    library = MediaPipe(detect, version)
    monkeypatch.setitem(sys.modules, "mediapipe", library)
    return library


def make_analyzer(landmarks: Any = None) -> PhotographAnalyzer:
    """An analyzer that detects ``DETECTED`` in any picture."""

    def embed(*_: object) -> Tensor:
        return torch.ones(1, 512)

    return PhotographAnalyzer(detect=lambda _: [DETECTED], embed=embed, landmarks=landmarks)


def analyze(landmarks: Any) -> tuple[Face, list[str]]:
    """The face in ``PICTURE``, and the messages."""
    with collect_messages() as messages:
        face = make_analyzer(landmarks).analyze(PICTURE)
    return face, list(messages)
