"""A plan holds what is counted, and changes where things are, not what comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.rehearsal import Rehearsal, full_size
from hallo3.config import HALLO3
from hallo3.errors import InputError
from hallo3.loading import load_models
from hallo3.media.audio import Recording
from hallo3.offload.budget import GB, MemoryPlan, least_needed, plan_memory, usable
from hallo3.offload.estimate import (
    DEVICE,
    DISK,
    MEMORY,
    MemoryRequirements,
    ModelSizes,
    OffloadConfig,
    in_precision,
    stages_of,
    streamed_a_step,
)
from hallo3.quantization.precision import PRECISIONS
from hallo3.vae.tiling import DecodePlan
from support.short_runs import video

CPU, BF16 = torch.device("cpu"), torch.bfloat16
LATENT, TRUNK = HALLO3.segment.shape.latent, HALLO3.trunk


@pytest.fixture(scope="module")
def sizes() -> ModelSizes:
    return full_size()


def demand(name: str = "bf16", *, branches: int = 2, steps: int = 50) -> MemoryRequirements:
    return MemoryRequirements(precision=PRECISIONS[name], steps=steps, branches=branches)


@pytest.mark.parametrize(
    ("ceiling", "precision", "branches", "fused"),
    [(6, "bf16", 2, False), (16, "bf16", 2, True), (6, "fp8", 1, True), (24, "fp8", 2, False)],
)
def test_a_whole_run_at_full_size_stays_under_its_plan(
    ceiling: int, precision: str, branches: int, fused: bool
) -> None:
    """Weights that come and go, conditions and activations; on meta, through the real stages."""
    asked = replace(demand(precision, branches=branches), fused=fused)
    sizes = full_size(precision)
    plan = plan_memory(sizes, asked, ceiling * GB, 64 * GB)
    peaks = Rehearsal(sizes=sizes, demand=asked, plan=plan).run()
    assert set(peaks) == {stage.name for stage in plan.stages} - {"speech"}
    for name, counted in peaks.items():
        total = plan.stage(name).total
        assert counted <= total <= usable(ceiling * GB), f"{name}: {counted / GB:.2f} of {total / GB:.2f} GB"
    held = max(peaks.values())
    assert plan.peak <= 1.1 * held, "more is planned with than is needed"


def test_six_gigabytes_are_enough_for_everything(sizes: ModelSizes) -> None:
    plan = plan_memory(sizes, demand(), 6 * GB, 64 * GB)
    assert plan.arrangement.passes == "layer-major"
    assert plan.arrangement.home == MEMORY
    assert not plan.arrangement.on_access
    assert plan.stage("prompt").total < GB
    text = plan.text()
    assert f"{plan.arrangement.staying} of 42 blocks" in text
    assert all(stage.name in text for stage in plan.stages)
    facts = json.loads(json.dumps(plan.as_dict()))
    assert facts["peak"] == max(stage["total"] for stage in facts["stages"]) <= usable(6 * GB)


@pytest.mark.parametrize("name", ["bf16", "fp8", "fp32"])
def test_more_memory_never_makes_a_plan_slower(name: str) -> None:
    sizes = full_size(name)
    before: tuple[Any, ...] = ()
    least, stage = least_needed(sizes, demand(name))
    assert stage in {"encode", "sample", "listen", "prepare", "decode"}
    for ceiling in [least, *(round(gb * GB) for gb in (6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 80))]:
        if ceiling < least:
            continue
        plan = plan_memory(sizes, demand(name), ceiling, 128 * GB)
        assert plan.peak <= usable(ceiling)
        arranged = plan.arrangement
        rank = (
            not arranged.steps_on_access,
            not arranged.on_access,
            arranged.staying,
            arranged.passes == "batched",
            arranged.home == DEVICE,
        )
        assert rank >= before
        before = rank
    assert before[-1]


def test_what_does_not_fit_is_refused_with_what_would(sizes: ModelSizes) -> None:
    with pytest.raises(InputError, match="does not fit") as refused:
        plan_memory(sizes, demand(), 3 * GB, 64 * GB)
    assert refused.value.found == "3.0 GB"
    least, _ = least_needed(sizes, demand())
    assert plan_memory(sizes, demand(), least, 64 * GB).arrangement.on_access
    with pytest.raises(InputError):
        plan_memory(sizes, demand(), round(0.98 * least), 64 * GB)


@pytest.mark.parametrize(
    ("name", "ceiling", "said"),
    [
        ("fp32", 5.0, "allow more, or use bf16 or fp8"),
        ("bf16", 3.0, "allow more"),
        ("fp32", 3.0, "allow more"),
        ("fp8", 3.0, "allow more"),
    ],
)
def test_only_numbers_that_would_fit_are_offered(name: str, ceiling: float, said: str) -> None:
    with pytest.raises(InputError, match="does not fit") as refused:
        plan_memory(full_size(name), demand(name), round(ceiling * GB), 64 * GB)
    assert refused.value.fix == said


@pytest.mark.parametrize("name", ["fp32", "fp8"])
def test_a_model_in_another_precision_is_as_large_as_it_is(sizes: ModelSizes, name: str) -> None:
    assert in_precision(sizes, PRECISIONS[name]) == full_size(name)


def test_what_comes_twice_a_step_comes_for_each_branch(sizes: ModelSizes) -> None:
    parts = sizes.transformer
    counted = {
        passes: streamed_a_step(parts, OffloadConfig(home=MEMORY, staying=40, passes=passes))
        for passes in ("batched", "sequential", "layer-major")
    }
    assert counted["batched"] == counted["layer-major"] == 2 * parts.blocks.largest
    assert counted["sequential"] == 4 * parts.blocks.largest


def test_what_takes_another_time_is_told_in_other_words() -> None:
    plain = OffloadConfig(home=MEMORY, staying=2, passes="layer-major")
    others = [
        replace(plain, staying=3),
        replace(plain, on_access=True),
        replace(plain, steps_on_access=True),
        replace(plain, on_access=True, steps_on_access=True),
        replace(plain, decode=DecodePlan(8)),
        replace(plain, decode=DecodePlan(8, "host")),
    ]
    assert len({each.short for each in (plain, *others)}) == 1 + len(others)


def test_weights_are_on_disk_where_the_hosts_memory_is_small(sizes: ModelSizes) -> None:
    large, small = (plan_memory(sizes, demand(), 8 * GB, ram * GB) for ram in (64, 16))
    assert (large.arrangement.home, small.arrangement.home) == (MEMORY, DISK)
    assert small.host < large.host < 18 * GB
    assert "from disk" in small.line()


def test_many_steps_are_not_held(sizes: ModelSizes) -> None:
    """Tables of 1000 steps are 3.1 GB."""
    plan = plan_memory(sizes, demand(steps=1000), 6 * GB, 64 * GB)
    assert plan.peak <= usable(6 * GB)
    assert plan.arrangement.steps_on_access


ARRANGEMENTS = [
    OffloadConfig(home=DEVICE, staying=2, passes="batched"),
    OffloadConfig(home=MEMORY, staying=2, passes="batched"),
    OffloadConfig(home=DEVICE, staying=2, passes="sequential"),
    OffloadConfig(home=MEMORY, staying=1, passes="layer-major"),
    OffloadConfig(home=DISK, staying=1, passes="layer-major", on_access=True),
    OffloadConfig(home=DISK, staying=0, passes="layer-major", on_access=True, steps_on_access=True),
]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda plan: plan.short)
@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_the_video_is_the_same_under_any_plan(
    nano_folder: Path, portrait: Tensor, speech: Recording, arrangement: OffloadConfig, precision: str
) -> None:
    without = load_models(nano_folder, CPU, precision)
    plan = MemoryPlan(ceiling=6 * GB, arrangement=arrangement, stages=(), host=0)
    under = load_models(nano_folder, CPU, precision, memory=plan)
    passes = "batched" if arrangement.passes == "batched" else "sequential"
    expected = video(portrait, speech, without, "a man", passes=passes, steps=2)
    found = video(
        portrait,
        speech,
        under,
        "a man",
        steps=2,
        passes=arrangement.passes,
        on_access=arrangement.on_access,
        steps_on_access=arrangement.steps_on_access,
    )
    if arrangement.steps_on_access:  # one timestep at a time is another product
        assert torch.allclose(found, expected, atol=1e-5)
    else:
        assert torch.equal(found, expected)


def test_a_plan_says_how_to_decode(nano_folder: Path) -> None:
    decode = DecodePlan(3, "host")
    arrangement = OffloadConfig(home=MEMORY, staying=0, passes="layer-major", decode=decode)
    plan = MemoryPlan(ceiling=6 * GB, arrangement=arrangement, stages=(), host=0)
    with load_models(nano_folder, CPU, "fp32", memory=plan).vae as vae:
        assert vae.plan == decode


def test_every_stage_is_told_once(sizes: ModelSizes) -> None:
    plan = OffloadConfig(home=MEMORY, staying=0, passes="layer-major")
    stages = list(stages_of(sizes, demand(), plan))
    assert len({stage.name for stage in stages}) == len(stages) == 9
    more = {s.name: s.total for s in stages_of(sizes, demand(), replace(plan, staying=7))}
    grown = {s.name for s in stages if more[s.name] > s.total}
    assert grown <= {"prepare", "sample"}
    assert more["sample"] - next(s.total for s in stages if s.name == "sample") == (
        7 * sizes.transformer.blocks.largest
    )
