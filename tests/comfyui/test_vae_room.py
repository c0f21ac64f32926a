"""How much memory a decode in ComfyUI is planned with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from comfyui.host import Host

FREE, SIZE = 1_000_000, 4 * 1000
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dynamic", "loaded", "left"),
    [
        (False, 0, FREE - SIZE),
        (False, 1000, FREE - SIZE + 1000),
        (False, SIZE, FREE),
        (True, SIZE, FREE - SIZE),
    ],
)
def test_what_is_loaded_already_is_not_taken_off_again(
    host: Host, monkeypatch: pytest.MonkeyPatch, dynamic: bool, loaded: int, left: int
) -> None:
    """ComfyUI does not call it free; its dynamic memory does."""
    from comfy.model_patcher import ModelPatcher

    room: Any = host.module("nodes.comfy.vae")
    patcher: Any = ModelPatcher(nn.Linear(1000, 1, bias=False), load_device=CPU, offload_device=CPU)
    patcher.model.model_loaded_weight_memory = loaded
    monkeypatch.setattr(patcher, "get_free_memory", lambda _: FREE)
    monkeypatch.setattr(patcher, "is_dynamic", lambda: dynamic)
    assert room.free_beside(SimpleNamespace(patcher=patcher, device=CPU)) == left
