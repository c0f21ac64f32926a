"""ComfyUI's samplers, guiders, LoRA, caches, windows and memory work on the MODEL; our step cache."""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui.stages import SEED, Stages, difference, run_extra
from hallo3.config import BUILT_IN

SAMPLERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc", "ddim", "res_multistep")
SCHEDULERS = ["normal", "karras", "exponential", "sgm_uniform", "ddim_uniform", "beta", "kl_optimal"]


@pytest.mark.parametrize("names", [*((n, "simple") for n in SAMPLERS), *(("euler", n) for n in SCHEDULERS)])
def test_ksampler_with_its_samplers_and_schedulers(stages: Stages, names: tuple[str, str]) -> None:
    latents = stages.run_ksampler(*names)
    assert latents.shape == (1, 16, 9, 8, 8)
    assert bool(latents.isfinite().all())


def test_the_stock_sampler_is_near_the_original(stages: Stages) -> None:
    """``dpmpp_2m_sde`` + ``simple``: its formula on another schedule (docs/measurements/README.md)."""
    import comfy.samplers

    original = stages.original_schedule(50)
    stock = comfy.samplers.calculate_sigmas(stages.model.model.model_sampling, "simple", 50)
    shares = [1 / torch.sqrt(1 + sigmas.double() ** 2) for sigmas in (original, stock)]
    assert 1e-4 < difference(*shares) < 2e-2


def test_the_originals_schedule_in_two_parts_is_the_whole(stages: Stages) -> None:
    """Two halves of a schedule, the second from the first's latents, with a sampler without state."""
    sigmas, latent = stages.original_schedule(), stages.conditioning()[2]
    start = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(2))
    whole = sample_custom(stages, start, sigmas, latent)["samples"]
    half = sample_custom(stages, start, sigmas[:3], latent)
    found = sample_custom(stages, torch.zeros_like(start), sigmas[2:], half)["samples"]
    assert difference(found, whole) <= 1e-4


def sample_custom(stages: Stages, start: Tensor, sigmas: Tensor, latent: Any) -> Any:
    noise = SimpleNamespace(seed=SEED, generate_noise=lambda _: start)
    inputs = noise, stages.guider(3.5), stages.original_sampler("ddim"), sigmas, latent
    return run_extra("custom_sampler.SamplerCustomAdvanced", *inputs)


def test_sampler_custom_advanced_is_the_sampler_node(stages: Stages) -> None:
    """Guider, sampler and sigmas spelled out, with the same start noise and a sampler without noise."""
    latent, noise = stages.conditioning()[2], stages.module("hallo3.noise")
    start = noise.make_noise(SEED)(noise.Purpose.START, 0, 0, tuple(latent["samples"].shape))
    made = sample_custom(stages, start, stages.original_schedule(), latent)
    inputs = stages.inputs(segment=0, guidance_scale=3.5, sampler=stages.original_sampler("ddim"))
    wanted = stages.run("Hallo3Sampler", **inputs)[0]
    assert difference(made["samples"], wanted["samples"]) <= 1e-5
    assert made["hallo3_keep"] == wanted["hallo3_keep"]


def test_extrapolate_with_a_guider_hears_every_segment(stages: Stages) -> None:
    """It brings guidance and text; identity, speech and motion are put in, and it is left as it was."""
    zero = [[torch.zeros(1, 16, 32), {}]]
    guider = run_extra("custom_sampler.CFGGuider", stages.model, zero, zero, 3.5)
    before = [set(entry) for entry in guider.original_conds["positive"]]
    found = stages.extrapolate(guider=guider, guidance_scale=1.0, steps=2)
    assert difference(found, stages.extrapolate(guidance_scale=3.5, steps=2)) <= 1e-6
    assert [set(entry) for entry in guider.original_conds["positive"]] == before


def test_the_prompt_reaches_the_model_and_long_ones_are_cut(stages: Stages) -> None:
    text = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(1))
    found = stages.run_ksampler(positive=[[text, {}]])
    cut = stages.run_ksampler(positive=[[text[:, :16], {}]])
    assert difference(found, cut) == 0
    assert difference(found, stages.run_ksampler()) > 1e-4


def write_lora(stages: Stages, prefix: str) -> dict[str, Tensor]:
    """A LoRA in diffusers' CogVideoX names among ComfyUI's models: what it adds to each weight."""
    made, added = {}, {}
    layers = ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "norm1.linear", "attn_face.to_out.0")
    for seed, name in enumerate(layers):
        out, inner = {"ff.net.0.proj": (512, 128), "norm1.linear": (768, 64)}.get(name, (128, 128))
        generator = torch.Generator().manual_seed(seed)
        down, up = torch.randn(4, inner, generator=generator), torch.randn(out, 4, generator=generator)
        key = f"transformer_blocks.1.{name}"
        made |= {f"{prefix}{key}.lora_A.weight": down, f"{prefix}{key}.lora_B.weight": up * 0.1}
        added[f"{key}.weight"] = (up * 0.1) @ down
    folder = stages.host.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(made, folder / "test.safetensors")
    return added


def with_lora(stages: Stages, strength: float) -> Any:
    import nodes

    loader = nodes.LoraLoaderModelOnly()
    return loader.load_lora_model_only(stages.model, "test.safetensors", strength)[0]


@pytest.mark.parametrize("prefix", ["transformer.", "", "diffusion_model."])
def test_a_lora_in_diffusers_names_is_added(stages: Stages, prefix: str) -> None:
    """By ComfyUI's own loader; the result is that of the weights with the LoRA added in."""
    added, before = write_lora(stages, prefix), stages.run_ksampler()
    found = stages.run_ksampler(model=with_lora(stages, 0.7))
    network = stages.run("Hallo3LoadBuiltIn")[0]
    weights = dict(network.model.diffusion_model.named_parameters())
    for name, change in added.items():
        weights[name] += 0.7 * change
    assert difference(found, stages.run_ksampler(model=network)) <= 1e-5
    assert difference(found, before) > 1e-3
    assert difference(stages.run_ksampler(model=with_lora(stages, 0.0)), before) == 0
    assert difference(stages.run_ksampler(), before) == 0


@pytest.mark.parametrize(("threshold", "same"), [(0.0, True), (2.0, False)])
def test_easycache(stages: Stages, threshold: float, same: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        model = run_extra("easycache.EasyCacheNode", stages.model, threshold, 0.15, 0.95, False)
        found = stages.run_ksampler(steps=8, model=model)
    skipped = [record.message for record in caplog.records if "skipped" in record.message]
    assert ("skipped 0/8" in skipped[-1]) == same
    assert (difference(found, stages.run_ksampler(steps=8)) == 0) == same


def test_context_windows(stages: Stages) -> None:
    """Windows of 7 latent frames hear their own part of the speech."""
    name, plain = "context_windows.ContextWindowsManualNode", stages.run_ksampler()
    inputs = ([stages.model, size, 3, "standard_static", 1, False, "pyramid", 2, False] for size in (7, 9))
    parts, whole = (stages.run_ksampler(model=run_extra(name, *each)) for each in inputs)
    assert 1e-4 < difference(parts, plain) < math.inf
    assert difference(whole, plain) == 0


@pytest.mark.parametrize("budget", [0, 1_000_000, math.inf])
def test_partly_loaded_is_bit_equal(stages: Stages, budget: float) -> None:
    """ComfyUI leaves layers where they are and casts them when used; with a LoRA it patches them then."""
    import comfy.model_management as mm

    write_lora(stages, "transformer.")
    model = with_lora(stages, 1.0)
    wanted, plain = stages.run_ksampler(model=model), stages.sample(steps=2)
    mm.unload_all_models()
    load, loaded = model.load, []

    def sparing(device: Any, *args: Any, **kwargs: Any) -> None:
        load(device, *args, **kwargs | {"lowvram_model_memory": budget, "full_load": budget == math.inf})
        loaded.append(model.loaded_size() / model.model_size())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "clone", lambda *_, **__: model)
        patch.setattr(model, "load", sparing)
        found = stages.run_ksampler(model=model)
    mm.unload_all_models()
    assert loaded
    assert all((share == 1) == (budget == math.inf) for share in loaded)
    assert difference(found, wanted) == difference(stages.sample(steps=2), plain) == 0


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_small_weights_stay_near(stages: Stages, weight_dtype: str) -> None:
    model = stages.run("Hallo3LoadModel", model_name="built-in", weight_dtype=weight_dtype)[0]
    assert next(model.model.diffusion_model.parameters()).dtype.itemsize == 1
    assert 0 < stages.deviation(model) < 0.3  # and finite


STEPS = 20


@contextmanager
def counting(stages: Stages) -> Iterator[list[int]]:
    found, network = list[int](), stages.model.model.diffusion_model
    with network.register_forward_pre_hook(lambda _, inputs: found.append(len(inputs[0]))):
        yield found


def sampled(stages: Stages, model: Any = None, **widgets: Any) -> torch.Tensor:
    sampler = stages.original_sampler("dpmpp_2m", **widgets)
    changes = {"model": model} if model else {}
    return stages.sample(steps=STEPS, guidance_scale=3.5, sampler=sampler, **changes)


def test_zero_is_the_models_own(stages: Stages) -> None:
    own = BUILT_IN.defaults
    given = stages.sample(steps=own.steps, guidance_scale=own.guidance_scale)
    assert torch.equal(stages.sample(steps=0, guidance_scale=0.0), given)


def test_a_step_cache_computes_what_the_log_says(stages: Stages, caplog: pytest.LogCaptureFixture) -> None:
    """Off, it is the sampler as it was."""
    with counting(stages) as whole:
        plain = sampled(stages)
    assert sum(whole) == 2 * STEPS
    assert torch.equal(plain, sampled(stages, step_cache=0.0, step_cache_bound=0.9))
    with caplog.at_level(logging.INFO), counting(stages) as passes:
        cached = sampled(stages, step_cache=0.1)
    [saved] = map(int, re.findall(r"step cache: (\d+) of 20 steps were not computed", caplog.text))
    assert saved > 3
    assert sum(passes) == 2 * (STEPS - saved)
    assert 0 < difference(cached, plain) < 0.2


def test_every_step_is_seen_though_it_is_not_computed(stages: Stages) -> None:
    """Progress bars and previews count steps, not passes."""
    sampler, sigmas = stages.original_sampler("ddim", step_cache=0.2), stages.original_schedule(STEPS)
    start, seen = torch.randn(1, 16, 9, 8, 8), list[int]()
    inputs = start, torch.zeros_like(start), sampler, sigmas
    stages.guider(1.0).sample(*inputs, callback=lambda step, *_: seen.append(step), disable_pbar=True, seed=1)
    assert seen == list(range(STEPS))


def test_cfg_override_guides_in_the_middle_only(stages: Stages) -> None:
    first = run_extra("custom_sampler.CFGOverride", stages.model, 1.0, 0.0, 0.3)
    both = run_extra("custom_sampler.CFGOverride", first, 1.0, 0.9, 1.0)
    with counting(stages) as passes:
        sampled(stages, both)
    assert len(passes) == STEPS
    assert STEPS + 10 <= sum(passes) <= STEPS + 13


def test_the_clock_of_work_leaves_out_what_loads_before_the_first_step(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: Any = stages.module("nodes.comfy.progress")
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(progress, "time", clock)
    run = progress.RunProgress(stages.model, [0, 1], 2, 3, 0)
    for segment, seconds in ((0, (100, 7, 8)), (1, (50, 7, 8))):
        report = run.sampler(segment)
        for step, taken in enumerate(seconds):
            clock.now += taken
            report(step, torch.zeros(1, 16, 1, 8, 8), None, 3)
    assert run.clock() == 8 + 7 + 8 + 50 + 7 + 8, "a model that is loaded in every segment costs that time"
