"""What is constant is computed once: calls are counted over a run of several segments and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.ledger import OnMeta
from conftest import speech_of
from hallo3.config import TINY
from hallo3.model.guidance import GUIDANCE_PASSES
from hallo3.model.transformer import ReferenceNetwork
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.sampling.samplers import SAMPLERS, guided_denoiser
from hallo3.sampling.schedule import make_schedule
from hallo3.settings import settings_for
from hallo3.text_encoder import TextEncoder

SEGMENTS, STEPS = 3, 4


class Counted:
    """A residency that counts how often it is entered, and calls of the network's layers by name."""

    def __init__(self, residency: Any, *layers: str) -> None:
        self._residency, self._layers = residency, layers
        self.entered, self.calls = 0, Counter[str]()

    def __enter__(self) -> Any:
        network = self._residency.__enter__()
        self.entered += 1
        self._hooks = [
            module.register_forward_pre_hook(lambda *_, name=name: self.calls.update([name]))
            for name, module in self._modules(network)
        ]
        return network

    def __exit__(self, *stopped: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._residency.__exit__(*stopped)

    def _modules(self, network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        return ((name, module) for name, module in network.named_modules() if name in self._layers)


@contextmanager
def counted(models: Models, called: Counter[str]) -> Iterator[Models]:
    """The transformer with its layers counted, and what runs once a video counted by name."""
    in_block = ("attn1.to_k", "norm1.linear", "attn_face.to_k", "attn_audio.to_k")
    layers = ["audio_proj", "face_proj", "patch_embed.text_proj"]
    layers += [f"transformer_blocks.0.{layer}" for layer in in_block]
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in ((ReferenceNetwork, "features"), (TextEncoder, "encode")):
            patch.setattr(kind, name, counting(getattr(kind, name), called))
        yield replace(
            models,
            transformer=Counted(models.transformer, *layers),
            speech=Counted(models.speech, "encoder.layers.0"),
        )


def counting(real: Callable[..., Any], called: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        called[real.__name__] += 1
        return real(*arguments, **options)

    return call


@pytest.mark.parametrize("passes", GUIDANCE_PASSES)
def test_what_is_constant_is_computed_once(nano: Models, portrait: Tensor, passes: str) -> None:
    defaults = nano.config.defaults
    settings = replace(settings_for(defaults, steps=STEPS, guidance_scale=3.5), passes=passes)
    samples = SEGMENTS * nano.config.segment.new_frames * 640
    called: Counter[str] = Counter()
    with counted(nano, called) as models:
        frames = list(animate(portrait, speech_of(samples), "a man", models, settings))
    assert len(frames) == SEGMENTS
    assert called == {"features": 1, "encode": 1}
    assert models.speech.entered == 1  # type: ignore[attr-defined]
    assert models.speech.calls == {"encoder.layers.0": 1}  # type: ignore[attr-defined]
    calls: Counter[str] = models.transformer.calls  # type: ignore[attr-defined]
    block, branches = "transformer_blocks.0", 1 if passes == "batched" else 2
    assert calls["face_proj"] == calls["patch_embed.text_proj"] == 1
    assert calls["audio_proj"] == SEGMENTS + 1, "once a segment, and once for silence"
    assert calls[f"{block}.attn_face.to_k"] == 1
    assert calls[f"{block}.attn_audio.to_k"] == SEGMENTS + 1
    assert calls[f"{block}.norm1.linear"] == 1, "all timesteps at once"
    assert calls[f"{block}.attn1.to_k"] == SEGMENTS * STEPS * branches + 1, "once more for the reference"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("passes", GUIDANCE_PASSES)
@torch.inference_mode()
def test_no_step_waits_for_the_device(passes: str, sampler: str) -> None:
    """On meta there is nothing to wait for: whoever asks for a value there fails."""
    there = OnMeta(TINY, steps=STEPS)
    predict = GUIDANCE_PASSES[passes](there.dit, *there.prepare())
    noise = torch.empty_like(there.latents)
    denoise = guided_denoiser(predict, 3.5)
    made = SAMPLERS[sampler](denoise, there.latents, make_schedule(STEPS), lambda _: noise, lambda _: None)
    assert made.shape == there.latents.shape
    with pytest.raises(RuntimeError):
        bool(made.sum() > 0)
