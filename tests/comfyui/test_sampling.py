"""What ComfyUI already has works on the MODEL: its samplers, guiders, LoRA, caches, windows and memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui.stages import SEED, STEPS, Stages, difference

SAMPLERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc", "ddim", "res_multistep")
SCHEDULERS = ["normal", "karras", "exponential", "sgm_uniform", "ddim_uniform", "beta", "kl_optimal"]


def finite(latents: Tensor) -> bool:
    return latents.shape == (1, 16, 9, 8, 8) and bool(latents.isfinite().all())


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [*((name, "simple") for name in SAMPLERS), *(("euler", name) for name in SCHEDULERS)],
)
def test_ksampler_with_its_samplers_and_schedulers(stages: Stages, sampler: str, scheduler: str) -> None:
    assert finite(stages.run_ksampler(sampler, scheduler))


def test_the_stock_sampler_is_near_the_original(stages: Stages) -> None:
    """``dpmpp_2m_sde`` + ``simple`` has the original's formula on another schedule: near, not equal
    (docs/measurements/README.md)."""
    import comfy.samplers

    original = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=50)[0]
    stock = comfy.samplers.calculate_sigmas(stages.model.model.model_sampling, "simple", 50)
    shares = [1 / torch.sqrt(1 + sigmas.double() ** 2) for sigmas in (original, stock)]
    assert 1e-4 < difference(*shares) < 2e-2


def test_the_originals_schedule_in_two_parts_is_the_whole(stages: Stages) -> None:
    """Two halves of a schedule, the second from the first's latents, with a sampler without state."""
    from comfy_extras.nodes_custom_sampler import CFGGuider, SamplerCustomAdvanced

    positive, negative, latent = stages.conditioning()
    sampler = stages.run("Hallo3OriginalSampler", sampler_name="ddim")[0]
    sigmas = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=STEPS)[0]
    guider = CFGGuider.execute(stages.model, positive, negative, 3.5).result[0]
    start = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(2))

    def run(noise: Tensor, part: Tensor, inputs: Any) -> Any:
        return SamplerCustomAdvanced.execute(Fixed(noise), guider, sampler, part, inputs).result[0]

    whole = run(start, sigmas, latent)["samples"]
    half = run(start, sigmas[:3], latent)
    found = run(torch.zeros_like(start), sigmas[2:], half)["samples"]
    assert difference(found, whole) <= 1e-4


class Fixed:
    def __init__(self, start: Tensor) -> None:
        self.start, self.seed = start, SEED

    def generate_noise(self, _: Any) -> Tensor:
        return self.start


def test_sampler_custom_advanced_is_the_sampler_node(stages: Stages) -> None:
    """Guider, sampler and sigmas spelled out, with the same start noise and a sampler without noise."""
    from comfy_extras.nodes_custom_sampler import CFGGuider, SamplerCustomAdvanced

    positive, negative, latent = stages.conditioning()
    noise = stages.host.module("hallo3.noise")
    start = noise.make_noise(SEED)(noise.Purpose.START, 0, 0, tuple(latent["samples"].shape))
    sampler = stages.run("Hallo3OriginalSampler", sampler_name="ddim")[0]
    sigmas = stages.run("Hallo3OriginalSchedule", model=stages.model, steps=STEPS)[0]
    guider = CFGGuider.execute(stages.model, positive, negative, 3.5).result[0]
    made = SamplerCustomAdvanced.execute(Fixed(start), guider, sampler, sigmas, latent).result[0]
    wanted = stages.run("Hallo3Sampler", **stages.inputs(segment=0, guidance_scale=3.5, sampler=sampler))[0]
    assert difference(made["samples"], wanted["samples"]) <= 1e-5
    assert made["hallo3_keep"] == wanted["hallo3_keep"]


def test_extrapolate_with_a_guider_hears_every_segment(stages: Stages) -> None:
    """A guider from outside brings guidance and text; identity, speech and motion are put in for each
    segment, and the guider itself is left as it was."""
    from comfy_extras.nodes_custom_sampler import CFGGuider

    zero = [[torch.zeros(1, 16, 32), {}]]
    guider = CFGGuider.execute(stages.model, zero, zero, 3.5).result[0]
    before = [dict(entry) for entry in guider.original_conds["positive"]]
    found = stages.run("Hallo3Extrapolate", **stages.inputs(guider=guider, guidance_scale=1.0))[1]
    wanted = stages.run("Hallo3Extrapolate", **stages.inputs(guidance_scale=3.5))[1]
    assert difference(found, wanted) <= 1e-6
    assert [entry.keys() for entry in guider.original_conds["positive"]] == [e.keys() for e in before]


def test_the_prompt_reaches_the_model_and_long_ones_are_cut(stages: Stages) -> None:
    text = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(1))
    found = stages.run_ksampler("euler", "simple", positive=[[text, {}]])
    cut = stages.run_ksampler("euler", "simple", positive=[[text[:, :16], {}]])
    assert difference(found, cut) == 0
    assert difference(found, stages.run_ksampler("euler", "simple")) > 1e-4


def lora_file(folder: Path, prefix: str, strength: float = 1.0) -> tuple[Path, dict[str, Tensor]]:
    """A LoRA in diffusers' CogVideoX names, and what it adds to each weight."""
    made, added = {}, {}
    layers = ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "norm1.linear", "attn_face.to_out.0")
    for seed, name in enumerate(layers):
        out, inner = {"ff.net.0.proj": (512, 128), "norm1.linear": (768, 64)}.get(name, (128, 128))
        generator = torch.Generator().manual_seed(seed)
        down, up = torch.randn(4, inner, generator=generator), torch.randn(out, 4, generator=generator)
        key = f"transformer_blocks.1.{name}"
        made |= {f"{prefix}{key}.lora_A.weight": down, f"{prefix}{key}.lora_B.weight": up * 0.1}
        added[f"{key}.weight"] = strength * (up * 0.1) @ down
    path = folder / "models" / "loras" / "test.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(made, path)
    return path, added


@pytest.mark.parametrize("prefix", ["transformer.", "", "diffusion_model."])
def test_a_lora_in_diffusers_names_is_added(stages: Stages, prefix: str) -> None:
    """By ComfyUI's own loader; the result is that of the weights with the LoRA added in."""
    import nodes

    _, added = lora_file(stages.host.base, prefix)
    before = stages.run_ksampler("euler", "simple")
    loader = nodes.LoraLoaderModelOnly()
    patched = loader.load_lora_model_only(stages.model, "test.safetensors", 0.7)[0]
    off = loader.load_lora_model_only(stages.model, "test.safetensors", 0.0)[0]
    found = stages.run_ksampler("euler", "simple", model=patched)
    network = stages.run("Hallo3LoadBuiltIn")[0]
    weights = dict(network.model.diffusion_model.named_parameters())
    for name, change in added.items():
        weights[name] += 0.7 * change
    assert difference(found, stages.run_ksampler("euler", "simple", model=network)) <= 1e-5
    assert difference(found, before) > 1e-3
    assert difference(stages.run_ksampler("euler", "simple", model=off), before) == 0
    assert difference(stages.run_ksampler("euler", "simple"), before) == 0


@pytest.mark.parametrize(("threshold", "same"), [(0.0, True), (2.0, False)])
def test_easycache(stages: Stages, threshold: float, same: bool, caplog: pytest.LogCaptureFixture) -> None:
    from comfy_extras.nodes_easycache import EasyCacheNode

    with caplog.at_level("INFO"):
        model = EasyCacheNode.execute(stages.model, threshold, 0.15, 0.95, False).result[0]
        found = stages.run_ksampler("euler", "simple", 8, model=model)
    skipped = [record.message for record in caplog.records if "skipped" in record.message]
    assert ("skipped 0/8" in skipped[-1]) == same
    assert (difference(found, stages.run_ksampler("euler", "simple", 8)) == 0) == same


def test_context_windows(stages: Stages) -> None:
    """Windows of 7 latent frames hear their own part of the speech."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    window = ("standard_static", 1, False, "pyramid", 2, False)
    model = ContextWindowsManualNode.execute(stages.model, 7, 3, *window).result[0]
    found = stages.run_ksampler("euler", "simple", model=model)
    assert finite(found)
    plain = stages.run_ksampler("euler", "simple")
    assert difference(found, plain) > 1e-4
    whole = ContextWindowsManualNode.execute(stages.model, 9, 3, *window).result[0]
    assert difference(stages.run_ksampler("euler", "simple", model=whole), plain) == 0


@pytest.mark.parametrize("budget", [0, 1_000_000, math.inf])
def test_partly_loaded_is_bit_equal(stages: Stages, budget: float) -> None:
    """ComfyUI leaves layers where they are and casts them when used; with a LoRA it patches them then."""
    import nodes

    lora_file(stages.host.base, "transformer.")
    model = nodes.LoraLoaderModelOnly().load_lora_model_only(stages.model, "test.safetensors", 1.0)[0]
    wanted = stages.run_ksampler("euler", "simple", model=model)
    import comfy.model_management as mm

    mm.unload_all_models()
    load, loaded = model.load, []

    def sparing(device: Any, *args: Any, **kwargs: Any) -> None:
        load(device, *args, **kwargs | {"lowvram_model_memory": budget, "full_load": budget == math.inf})
        loaded.append(model.loaded_size() / model.model_size())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "clone", lambda *_, **__: model)
        patch.setattr(model, "load", sparing)
        found = stages.run_ksampler("euler", "simple", model=model)
    mm.unload_all_models()
    assert loaded
    assert all((share == 1) == (budget == math.inf) for share in loaded)
    assert difference(found, wanted) == 0


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_small_weights_stay_near(stages: Stages, weight_dtype: str) -> None:
    model = stages.run("Hallo3LoadModel", model_name="built-in", weight_dtype=weight_dtype)[0]
    assert next(model.model.diffusion_model.parameters()).dtype.itemsize == 1
    found = stages.run_ksampler("euler", "simple", model=model)
    assert finite(found)
    plain = stages.run_ksampler("euler", "simple")
    assert 0 < float((found - plain).std() / plain.std()) < 0.3
