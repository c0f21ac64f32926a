"""``animate`` continues with less where memory runs out in a stage, or says that nothing smaller is left."""

import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import speech_of
from hallo3 import loading, pipeline
from hallo3.loading import load_models
from hallo3.model.transformer import Hallo3Transformer
from hallo3.models import Models
from hallo3.pipeline import animate
from hallo3.residency import CPU
from support.messages import collect_messages, expect_message
from support.out_of_memory import ERRORS, failing
from support.out_of_memory import STAGES as NETWORK_STAGES
from support.resume_runs import before
from support.short_runs import settings

STAGES = NETWORK_STAGES | {
    "speech": (pipeline, "compute_features"),
    "sample": (Hallo3Transformer, "forward_layerwise"),
}


FEW = [("portrait", "torch"), ("sample", "Python"), ("decode", "cuDNN")]
"""All others are soak tests."""


def load(folder: Path) -> Models:
    return load_models(folder, CPU, "fp32")


def render(models: Models, portrait: Tensor, on_access: bool = False) -> Tensor:
    """Two segments, in the order of passes that a smaller arrangement has."""
    wanted = settings(models, passes="layer-major", on_access=on_access)
    parts = animate(portrait, speech_of(16000), "a face", models, wanted)
    return torch.cat([segment.pixels for segment in parts])


@pytest.fixture(scope="module")
def expected(nano_folder: Path, portrait: Tensor) -> Tensor:
    return render(load(nano_folder), portrait)


def marked(stage: str, kind: str) -> Any:
    return pytest.param(stage, kind, marks=[] if (stage, kind) in FEW else [pytest.mark.soak])


@pytest.mark.parametrize(("stage", "kind"), [marked(stage, kind) for stage in STAGES for kind in ERRORS])
def test_a_stage_is_tried_again(
    nano_folder: Path, portrait: Tensor, expected: Tensor, stage: str, kind: str
) -> None:
    """Weights come from disk then, and frames are the same, bit for bit."""
    models, calls = load(nano_folder), {"listen": 1}  # the first is of silence
    said = rf"out of memory in the stage {stage}: {type(ERRORS[kind]()).__name__}.* Again.*offload='disk'"
    with before(*STAGES[stage], failing(kind, calls.get(stage, 0))), expect_message(said):
        found = render(models, portrait)
    assert torch.equal(found, expected)


def test_what_was_loaded_is_let_go(nano_folder: Path) -> None:
    models = load(nano_folder)
    with models.transformer as network:
        known = weakref.ref(network)
    del network
    with expect_message("Again"):
        assert models.shrink(MemoryError(), "sample")
    assert known() is None
    assert models.passes() == "layer-major"


def test_nothing_smaller_is_left(
    nano_folder: Path, portrait: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU weights are sent from RAM, then from disk; conditions on access keep the network that made
    them."""
    monkeypatch.setattr(loading, "CPU", torch.device("meta"))  # the CPU is another device
    models = load(nano_folder)
    failure = before(*STAGES["decode"], failing("torch", *range(9)))
    with failure, collect_messages() as messages, pytest.raises(torch.OutOfMemoryError):
        render(models, portrait)
    again = [part for text in messages for part in re.findall("offload='.*'", text)]
    assert again == ["offload='blocks'", "offload='disk'"]
    assert "smaller is left: load the models in bf16, or in fp8, or with a smaller segment" in messages[-1]
    with before(*STAGES["decode"], failing("torch", 0)), pytest.raises(torch.OutOfMemoryError):
        render(load(nano_folder), portrait, on_access=True)
