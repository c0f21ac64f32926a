"""If memory runs out in a stage of a node, all models are unloaded and the stage is tried again with less."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui.stages import Stages, difference
from support.out_of_memory import ERRORS, failing
from support.resume_runs import before


def extrapolate(stages: Stages) -> Tensor:
    return stages.extrapolate(steps=1)


def sample(stages: Stages) -> Tensor:
    return stages.sample(steps=1)


def decode(stages: Stages) -> Tensor:
    latents = torch.linspace(-1, 1, 16 * 13 * 8 * 12).view(1, 16, 13, 8, 12)
    return stages.run("Hallo3VAEDecode", samples={"samples": latents}, vae=stages.vae)[0]


def extract(stages: Stages) -> Tensor:
    return torch.cat(stages.create_identity()[0].reference_features)


def hear(stages: Stages) -> Tensor:
    audio = torch.sin(torch.arange(16000) / 20)[None, None]
    return stages.encode_speech(audio)[0].speech.segment(0)


RUNS: dict[str, tuple[Callable[[Stages], Tensor], str, str]] = {
    "Extrapolate, encode": (extrapolate, "nodes.comfy.vae", "encode"),
    "Extrapolate, sample": (extrapolate, "network", "velocity"),
    "Extrapolate, decode": (extrapolate, "nodes.comfy.vae", "decode_parts"),
    "Sampler, encode": (sample, "nodes.comfy.vae", "encode"),
    "Sampler, sample": (sample, "network", "velocity"),
    "VAE Decode, decode": (decode, "nodes.comfy.vae", "decode_parts"),
    "Identity Reference, portrait": (extract, "nodes.comfy.vae", "encode"),
    "Identity Reference, reference": (extract, "nodes.identity", "extract_features"),
    "Encode Speech, speech": (hear, "nodes.comfy.speech", "compute_features"),
}


def fail_in(stages: Stages, place: str, name: str, *calls: int, kind: str) -> AbstractContextManager[None]:
    target = stages.model.model.diffusion_model if place == "network" else stages.module(place)
    return before(target, name, failing(kind, *calls))


@pytest.fixture(scope="module")
def known() -> dict[tuple[Any, float], Tensor]:
    """Results of runs in which no memory runs out, with a share of the device."""
    return {}


def run_with(stages: Stages, run: Callable[[Stages], Tensor], share: float) -> Tensor:
    """A run that has a smaller share of the device from its beginning."""
    second_try = stages.module("nodes.comfy.memory").SecondTry
    real = second_try.__init__

    def begin(self: Any, device: Any) -> None:
        real(self, device)
        self.share = share

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second_try, "__init__", begin)
        return run(stages)


def each_run() -> list[Any]:
    """Every run with every kind of error; with one of them outside of soak tests."""
    pairs = [(name, kind, n % 3 != k) for n, name in enumerate(RUNS) for k, kind in enumerate(ERRORS)]
    return [pytest.param(*pair, marks=[pytest.mark.soak] * soak) for *pair, soak in pairs]


@pytest.mark.parametrize(("name", "kind"), each_run())
def test_a_stage_is_tried_again(
    stages: Stages, known: dict[tuple[Any, float], Tensor], caplog: Any, name: str, kind: str
) -> None:
    """What it gives is what a run with the smaller share gives, bit for bit."""
    import comfy.model_management as mm

    run, place, function = RUNS[name]
    for share in (1.0, 0.8):
        if (run, share) not in known:
            known[run, share] = run_with(stages, run, share)
    asked, real = list[float](), mm.load_models_gpu
    caplog.clear()
    failure = fail_in(stages, place, function, 0, 1, kind=kind)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING), failure:
        patch.setattr(
            mm,
            "load_models_gpu",
            lambda *v, memory_required=0, **n: (asked.append(memory_required), real(*v, **n))[1],
        )
        found = run(stages)
    assert torch.equal(found, known[run, 0.8])
    assert difference(found, known[run, 1.0]) < 1e-4
    stage = name.rpartition(" ")[2]
    notes = [text for text in caplog.messages if "out of memory" in text]
    assert [f"stage {stage}: {type(ERRORS[kind]()).__name__}" in text for text in notes] == [True, True]
    assert [f"with {share} % of that" in text for share, text in zip((90, 80), notes, strict=True)] == [
        True
    ] * 2
    if stage in ("sample", "decode"):
        total = mm.get_total_memory(stages.vae.device)
        assert max(asked) - min(asked) > 0.19 * total


def test_a_stage_is_tried_three_times(stages: Stages) -> None:
    out, words = torch.OutOfMemoryError, r"unable to find an engine(.|\n)*queue again to resume"
    failure = fail_in(stages, *RUNS["Extrapolate, decode"][1:], *range(9), kind="cuDNN")
    with failure, pytest.raises(out, match=words):
        extrapolate(stages)
    extrapolate(stages)
