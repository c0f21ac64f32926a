"""Memory plans: they hold what is counted, fit their limit, and change no frame."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import ceilings
from benchmarks.ceilings import Rehearsal
from conftest import speech_of
from hallo3.config import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.errors import InputError
from hallo3.loading import load_models
from hallo3.offload.budget import (
    MemoryPlan,
    min_limit,
    plan_cpu_memory,
    plan_memory,
    shrink_plan,
    usable_bytes,
)
from hallo3.offload.estimate import DEVICE, DISK, RAM, MemoryRequirements, OffloadConfig
from hallo3.offload.sizes import ModelSizes, measure_sizes
from hallo3.quantization import PRECISIONS
from hallo3.units import GB
from hallo3.vae.causal_conv import DecodePlan
from support.short_runs import video

CPU, SPEECH = torch.device("cpu"), speech_of(12000)


full_size = cache(ceilings.full_size)
FEW_LAYERS = replace(HALLO3, trunk=replace(HALLO3.trunk, layers=12))


@pytest.fixture(scope="module")
def sizes() -> ModelSizes:
    return full_size("bf16")


def requirements(name: str = "bf16", *, steps: int = 50, **more: Any) -> MemoryRequirements:
    return MemoryRequirements(precision=PRECISIONS[name], steps=steps, **{"branches": 2, **more})


LONG_RUNS = [(6, "bf16", 2, False), (6, "fp8", 1, True), (16, "bf16", 2, True), (24, "fp8", 2, False)]


@pytest.mark.soak
@pytest.mark.parametrize(("limit", "precision", "branches", "fused"), LONG_RUNS)
def test_a_full_run_stays_under_its_plan(limit: int, precision: str, branches: int, fused: bool) -> None:
    needs = requirements(precision, branches=branches, fused=fused)
    check_run(full_size(precision), needs, limit)


def test_a_run_stays_under_its_plan() -> None:
    """Released widths and sizes, twelve of the 42 blocks."""
    encoders = TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"]
    check_run(measure_sizes(FEW_LAYERS, PRECISIONS["bf16"], *encoders), requirements(fused=False), 6)


def check_run(sizes: ModelSizes, needs: MemoryRequirements, limit: int) -> None:
    """Weights, conditions and activations, counted on meta through the real renderer."""
    plan = plan_memory(sizes, needs, limit * GB, 64 * GB)
    assert plan.offload.passes == "layer-major" or limit > 6
    peaks = Rehearsal(sizes=sizes, requirements=needs, plan=plan).run()
    assert set(peaks) == {stage.name for stage in plan.stages} - {"speech"}
    for name, peak in peaks.items():
        total = plan.stage(name).total
        assert peak <= total <= usable_bytes(limit * GB), f"{name}: {peak / GB:.2f} of {total / GB:.2f} GB"
    assert plan.peak <= 1.1 * max(peaks.values())


def test_six_gigabytes_are_enough(sizes: ModelSizes) -> None:
    plan = plan_memory(sizes, requirements(), 6 * GB, 64 * GB)
    assert (plan.offload.home, plan.offload.passes, plan.offload.on_access) == (RAM, "layer-major", False)
    assert plan.stage("prompt").total < GB
    text = plan.text()
    assert f"{plan.offload.resident} of 42 blocks" in text
    assert all(stage.name in text for stage in plan.stages)
    facts = json.loads(json.dumps(plan.as_dict()))
    assert facts["peak"] == max(stage["total"] for stage in facts["stages"]) <= usable_bytes(6 * GB)
    assert facts["arrangement"].keys() >= {"home", "staying", "passes", "decode"}
    many = plan_memory(sizes, requirements(steps=1000), 6 * GB, 64 * GB)
    assert many.peak <= usable_bytes(6 * GB)
    assert many.offload.steps_on_access, "modulations of 1000 steps are 3.1 GB"


SHRINKING = [(gb, False) for gb in (6, 8, 12, 24)] + [(32, True)]


@pytest.mark.parametrize(("gb", "on_cpu"), [pytest.param(*run, marks=pytest.mark.soak) for run in SHRINKING])
def test_every_plan_shrinks(sizes: ModelSizes, gb: int, on_cpu: bool) -> None:
    needs, limit = requirements(), gb * GB
    first = plan_cpu_memory(sizes, needs, limit) if on_cpu else plan_memory(sizes, needs, limit, 64 * GB)
    shrunk = {stage.name for stage in first.stages if check_shrinks(sizes, first, stage.name)}
    assert shrunk == {"prepare", "encode", "listen", "sample", "decode"}


def test_a_plan_shrinks_where_memory_ran_out(sizes: ModelSizes) -> None:
    first = plan_memory(sizes, requirements(), 8 * GB, 64 * GB)
    assert [check_shrinks(sizes, first, name) for name in ("sample", "decode", "prompt")] == [
        True,
        True,
        False,
    ]


def check_shrinks(sizes: ModelSizes, first: MemoryPlan, name: str) -> bool:
    """Twice, to 90 and 80 %: the stage in which memory ran out, else the whole run, and never to more than
    that share of the limit. Whether the stage shrank the first time."""
    plan, caps, shrunk = first, dict[str, int](), list[bool]()
    for share in (0.9, 0.8):
        smaller = shrink_plan(plan, sizes, requirements(), share, 64 * GB, name, caps)
        assert smaller is not None
        total, before = smaller.stage(name).total, plan.stage(name).total
        shrunk.append(total <= share * before)
        assert smaller.peak <= share * first.limit
        assert total <= before
        assert shrunk[-1] or smaller.peak < plan.peak
        plan, caps[name] = replace(smaller, limit=first.limit), total
    return shrunk[0]


@pytest.mark.parametrize("name", ["bf16", "fp8", "fp32"])
def test_more_memory_never_makes_a_plan_slower(name: str) -> None:
    sizes, before = full_size(name), tuple[Any, ...]()
    least, stage = min_limit(sizes, requirements(name))
    assert stage in {"encode", "sample", "listen", "prepare", "decode"}
    larger = (gb * GB for gb in (6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 80))
    for limit in [least, *(limit for limit in larger if limit >= least)]:
        plan = plan_memory(sizes, requirements(name), limit, 128 * GB)
        assert plan.peak <= usable_bytes(limit)
        each, slower = plan.offload, before
        waits = not each.steps_on_access, not each.on_access
        before = (*waits, each.resident, each.passes == "batched", each.home == DEVICE)
        assert before >= slower
    assert before[-1]


def test_the_smallest_limit_fits_and_less_is_refused(sizes: ModelSizes) -> None:
    least, _ = min_limit(sizes, requirements())
    assert plan_memory(sizes, requirements(), least, 64 * GB).offload.on_access
    with pytest.raises(InputError, match="does not fit"):
        plan_memory(sizes, requirements(), round(0.98 * least), 64 * GB)


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_a_cpu_keeps_what_fits_in_ram(name: str) -> None:
    sizes, needs, before = full_size(name), requirements(name), (-1, False)
    with pytest.raises(InputError, match="does not fit the memory of this computer") as refused:
        plan_cpu_memory(sizes, needs, 4 * GB)
    assert refused.value.fix == "close other programs, or try --trial"
    if name == "fp32":
        with pytest.raises(InputError, match="or use bf16"):
            plan_cpu_memory(sizes, needs, 10 * GB)
    least = float(refused.value.expected.split()[2])
    for ram in (round((least + 0.06) * GB), 16 * GB, 24 * GB, 32 * GB, 64 * GB):
        plan = plan_cpu_memory(sizes, needs, ram)
        offload = plan.offload
        assert plan.ram <= 0.95 * ram
        assert (offload.home == DEVICE) != offload.keep
        assert all(stage.origin != RAM for stage in plan.stages)
        kept = offload.resident * sizes.transformer.blocks.largest if offload.keep else 0
        assert plan.stage("decode").weights >= kept
        assert (plan.read_per_step > 0) == (offload.resident < 42)
        assert before <= (offload.resident, offload.home == DEVICE)
        before = offload.resident, offload.home == DEVICE
    assert before[1]
    with pytest.raises(InputError, match="does not fit the memory of this computer"):
        plan_cpu_memory(sizes, needs, round((least - 0.06) * GB))


def test_what_does_not_run_is_not_planned(sizes: ModelSizes) -> None:
    all_stages = plan_cpu_memory(sizes, requirements(), 32 * GB)
    needs = replace(requirements(), prompt=False, portrait=False)
    fewer = plan_cpu_memory(replace(sizes, stored={"vae": 2.0}), needs, 32 * GB)
    names = {stage.name for stage in all_stages.stages} - {stage.name for stage in fewer.stages}
    assert names == {"prompt", "portrait", "reference"}
    skipped = sizes.text_encoder.total + sizes.reference.blocks.total + sizes.reference.modulations.total
    assert all_stages.read - fewer.read == skipped - sizes.vae


def test_a_refusal_offers_precisions_that_fit() -> None:
    for name, limit, others in (("fp32", 5.5, ", or use bf16 or fp8"), ("bf16", 3.0, ""), ("fp8", 3.0, "")):
        with pytest.raises(InputError, match="does not fit") as refusal:
            plan_memory(full_size(name), requirements(name), round(limit * GB), 64 * GB)
        assert (refusal.value.found, refusal.value.fix) == (f"{limit} GB", f"allow more{others}")


def test_weights_stream_from_disk_if_ram_is_small(sizes: ModelSizes) -> None:
    large, small = (plan_memory(sizes, requirements(), 8 * GB, ram * GB) for ram in (64, 16))
    assert (large.offload.home, small.offload.home) == (RAM, DISK)
    assert small.ram < 9 * GB < 18 * GB < large.ram < 27 * GB
    assert "from disk" in small.line()


CONFIGS = [
    OffloadConfig(home=DEVICE, resident=2, passes="batched"),
    OffloadConfig(home=RAM, resident=2, passes="batched"),
    OffloadConfig(home=DEVICE, resident=2, passes="sequential"),
    OffloadConfig(home=RAM, resident=1, passes="layer-major"),
    OffloadConfig(home=DISK, resident=1, passes="layer-major", on_access=True),
    OffloadConfig(home=DISK, resident=0, passes="layer-major", on_access=True, steps_on_access=True),
]


def plan_with(offload: OffloadConfig) -> MemoryPlan:
    return MemoryPlan(limit=6 * GB, offload=offload, stages=(), ram=0, read=0, read_per_step=0)


@pytest.fixture(scope="module")
def unplanned(nano_folder: Path, portrait: Tensor) -> Callable[[str, str], Tensor]:
    """Frames in a precision with these passes, without a plan."""

    @cache
    def render(precision: str, passes: str) -> Tensor:
        models = load_models(nano_folder, CPU, precision)
        return video(portrait, SPEECH, models, "a man", passes=passes, steps=2)

    return render


@pytest.mark.parametrize("offload", CONFIGS, ids=lambda config: config.label)
@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_the_video_is_the_same_under_any_plan(
    nano_folder: Path,
    portrait: Tensor,
    unplanned: Callable[[str, str], Tensor],
    offload: OffloadConfig,
    precision: str,
) -> None:
    planned = load_models(nano_folder, CPU, precision, memory=plan_with(offload))
    expected = unplanned(precision, "batched" if offload.passes == "batched" else "sequential")
    access = {name: getattr(offload, name) for name in ("passes", "on_access", "steps_on_access")}
    frames = video(portrait, SPEECH, planned, "a man", steps=2, **access)
    inexact = offload.steps_on_access  # modulations of one timestep are another matrix product
    assert torch.allclose(frames, expected, atol=1e-5) if inexact else torch.equal(frames, expected)


def test_a_plan_decides_how_to_decode(nano_folder: Path) -> None:
    decode = DecodePlan(3, "host")
    plan = plan_with(OffloadConfig(home=RAM, resident=0, passes="layer-major", decode=decode))
    with load_models(nano_folder, CPU, "fp32", memory=plan).vae as vae:
        assert vae.plan == decode
