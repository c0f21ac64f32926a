"""Where drawn people look, by the built-in model's face detector."""

from __future__ import annotations

import torch
from torch import Tensor

from hallo3.face.detector import find_faces


def measure_directions(frames: Tensor, people: int = 1) -> Tensor:
    """Yaw and pitch [F, people, 2] in degrees of the people in frames [F, 3, H, W] in 0..1, left to right:
    positive is to the picture's right, and up. NaN where a frame shows fewer; of more, the clearest count."""
    directions = torch.full((len(frames), people, 2), torch.nan)
    for frame, row in zip(frames, directions, strict=True):
        faces = sorted(find_faces(frame), key=lambda face: -face.score)[:people]
        if len(faces) == people:
            faces = sorted(faces, key=lambda face: face.box.left + face.box.right)
            row.copy_(torch.tensor([(face.yaw, face.pitch) for face in faces]))
    return directions
