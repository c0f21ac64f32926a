"""The attention that says what ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hallo3.attention import AUTO, BACKENDS, Watched, watched
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.model.layers import sdpa
from hallo3.models import Models
from hallo3.noise import make_generator
from support.short_runs import video


def sides(keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """q [1, 2, 190, 16], k and v [1, 2, keys, 16]."""
    q, k, v = (
        torch.from_numpy(make_generator(name).standard_normal((1, 2, count, 16), dtype="float32"))
        for name, count in (("q", 190), ("k", keys), ("v", keys))
    )
    return q, k, v


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize(
    ("attention", "ran"),
    [(AUTO, "torch, flash"), (sdpa, "torch, flash"), (BACKENDS["math"], "torch, math"), (plain, "plain")],
)
def test_the_largest_attention_is_told(attention: Any, ran: str) -> None:
    told = Watched(attention)
    assert told.ran == ""
    for keys in (32, 260, 4):
        q, k, v = sides(keys)
        assert torch.equal(told(q, k, v), attention(q, k, v))
        assert told.ran == ran


def test_torch_is_asked_once_a_larger_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def choice(_: Tensor, k: Tensor, __: Tensor) -> int:
        asked.append(k.shape[-2])
        return 3 if k.shape[-2] == 260 else 2

    monkeypatch.setattr(torch, "_fused_sdp_choice", choice)
    attention = Watched()
    for keys in (32, 260, 260, 4, 32, 260):
        attention(*sides(keys))
    assert asked == [32, 260]
    assert attention.ran == "torch, cudnn"


@pytest.mark.parametrize("missing", [True, False])
def test_where_torch_does_not_say_torch_is_told(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_choice(*_: Tensor) -> int:
        raise NotImplementedError("no kernel for this device")

    if missing:
        monkeypatch.delattr(torch, "_fused_sdp_choice")
    else:
        monkeypatch.setattr(torch, "_fused_sdp_choice", no_choice)
    attention = Watched()
    attention(*sides(32))
    assert attention.ran == "torch"


def test_a_watch_is_kept() -> None:
    attention = Watched()
    assert watched(attention) is attention
    assert isinstance(watched(sdpa), Watched)


def test_models_say_what_their_networks_attended_by(
    nano_folder: Path, nano: Models, portrait: Tensor, speech: Recording
) -> None:
    """Every attention of both networks is the one that the models watch; it changes rounding only."""
    models = load_models(nano_folder, torch.device("cpu"), "fp32", attention=BACKENDS["math"])
    assert models.attention.ran == ""
    wanted, found = (video(portrait, speech, each, steps=2) for each in (nano, models))
    assert (nano.attention.ran, models.attention.ran) == ("torch, flash", "torch, math")
    assert 0 < float((found - wanted).abs().max()) < 1e-4
    for residency in (models.transformer, models.reference):
        with residency as network:
            used = [getattr(module, "attention", None) for module in network.modules()]
        assert used.count(models.attention) >= models.config.trunk.layers
        assert set(used) == {None, models.attention}
