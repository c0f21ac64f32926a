"""Several people of an identity, as the model gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...hallo3.geometry import LatentShape
from ...hallo3.speakers import make_speaker_masks


def make_masks(identity: Any, latent: LatentShape, like: Tensor) -> tuple[Tensor | None, Tensor]:
    """The masks [1, P, 1, rows, columns] of an identity's people and their embeddings [1, P, E]; of one
    person None and [1, E]."""
    if not identity.people:
        return None, identity.face_embedding
    return make_speaker_masks(identity.people, latent)[None].to(like), identity.face_embedding[None]


def project_speech(project: Callable[[Tensor], Tensor], windows: Tensor) -> Tensor:
    """Windows [B, F, window, layers, channels] or [B, P, F, ...] -> audio tokens, person by person."""
    if windows.ndim == 5:
        return project(windows)
    return torch.stack([project(each) for each in windows.unbind(1)], dim=1)


def fit_windows(windows: Tensor, people: int) -> Tensor:
    """A segment's windows [1, F, ...] or [1, P, F, ...] for an identity of a number of people, 0 for one:
    those without a voice are silent."""
    if not people:
        return windows
    windows = windows if windows.ndim == 6 else windows[:, None]
    silent = windows.new_zeros(1, people - windows.shape[1], *windows.shape[2:])
    return torch.cat((windows, silent), dim=1)
