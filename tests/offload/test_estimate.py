"""Formulas of activations, compared with what is counted on the meta device, and the stages of a run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.ceilings import full_size
from benchmarks.counts import META, Tracker, attention
from hallo3.config import HALLO3, TEXT_ENCODERS
from hallo3.model.guidance import GUIDANCE_PASSES, single_branch
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork, SegmentConditions
from hallo3.offload.estimate import RAM, MemoryRequirements, OffloadConfig, TensorSizes, plan_stages
from hallo3.quantization import PRECISIONS
from hallo3.sampling.samplers import CONDITIONAL, PAIR, TEXT, UNCONDITIONAL
from hallo3.text_encoder import build_t5
from hallo3.units import GB
from hallo3.vae.autoencoder import build_vae
from hallo3.vae.causal_conv import DecodePlan

BF16 = PRECISIONS["bf16"]
LATENT, TRUNK = HALLO3.segment.shape.latent, HALLO3.trunk
SIZES = TensorSizes(HALLO3, BF16)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device=META, dtype=torch.bfloat16)


def layers(*, fused: bool) -> Layers:
    kernels = FUSED if fused else PLAIN
    return Layers(device="meta", dtype=torch.bfloat16, kernels=kernels, attention=attention)


def expect_upper_bound(formula: int, run: Callable[[], object]) -> None:
    """Never too little, at most 15 % too much."""
    with torch.no_grad(), Tracker("meta") as tracker:
        result = run()
        peak = tracker.peak
        del result
    assert peak <= formula <= 1.15 * peak, f"{formula / GB:.3f} GB estimated, {peak / GB:.3f} GB counted"


@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("blocks", [6, pytest.param(TRUNK.layers, marks=pytest.mark.soak)])
def test_sampling(blocks: int, fused: bool, speakers: int) -> None:
    """Several speakers take conditions, which are counted apart, and no more activations."""
    config = replace(HALLO3, trunk=replace(TRUNK, layers=blocks))
    dit = Hallo3Transformer(config, layers(fused=fused))
    features = [meta(1, LATENT.tokens_per_frame, TRUNK.width) for _ in range(blocks)]
    prompt = meta(1, TRUNK.text_tokens, TRUNK.text_dim)
    noisy = torch.empty(1, TRUNK.latent_channels, *LATENT, device=META)
    with torch.inference_mode():
        masks = meta(1, speakers, 1, LATENT.rows, LATENT.columns)
        run = dit.prepare(features, meta(1, speakers, 512), torch.tensor([999.0]), masks=masks)
        text = dit.encode_text(prompt)
        audio = dit.encode_audio(meta(1, speakers, *dit.window_shape), masks=masks)
        segment = SegmentConditions(text=text, audio=audio, image_latents=noisy)
    for branches in (PAIR, (UNCONDITIONAL, TEXT, CONDITIONAL), (CONDITIONAL,)):
        for name, passes in GUIDANCE_PASSES.items() if len(branches) > 1 else [("one", single_branch)]:

            def step(passes: Any = passes, branches: tuple[str, ...] = branches) -> object:
                latents = [torch.empty_like(noisy) for _ in range(4)]  # of the sampler
                given = (branches,) if len(branches) > 1 else branches
                return latents, passes(dit, run, segment, *given)(latents[0], 0)

            sizes = TensorSizes(config, BF16, fused=fused)
            expect_upper_bound(sizes.sampling(name, len(branches)), step)


@pytest.mark.parametrize("fused", [True, False])
def test_reference_network(fused: bool) -> None:
    network = ReferenceNetwork(TRUNK, LATENT, layers(fused=fused))
    latents = meta(1, TRUNK.latent_channels, 1, LATENT.height, LATENT.width)
    formula = replace(SIZES, fused=fused).reference() + SIZES.reference_features
    expect_upper_bound(formula, lambda: network.features(latents))


@pytest.mark.parametrize("frames", [1, 3])
def test_vae_encoder(frames: int) -> None:
    vae = build_vae(HALLO3.vae)
    vae.network.to(torch.bfloat16)
    pixels = meta(1, 3, frames, HALLO3.segment.height, HALLO3.segment.width)
    expect_upper_bound(SIZES.vae_encode(frames), lambda: vae.encode(pixels))


def test_t5_and_audio_projection() -> None:
    t5 = build_t5(TEXT_ENCODERS["hallo3"]).to(torch.bfloat16)
    ids = torch.zeros(1, TRUNK.text_tokens, dtype=torch.long, device=META)
    expect_upper_bound(SIZES.t5(TEXT_ENCODERS["hallo3"]), lambda: t5(ids))
    dit = Hallo3Transformer(HALLO3, layers(fused=True))
    expect_upper_bound(SIZES.audio_projection(), lambda: dit.audio_proj(meta(1, *dit.window_shape)))


def test_resident_blocks_and_passes_decide_sampling() -> None:
    sizes = full_size()
    requirements = MemoryRequirements(precision=BF16, steps=50, branches=2)
    config = OffloadConfig(home=RAM, resident=0, passes="layer-major")
    block = sizes.transformer.blocks.largest

    def stages(**changes: Any) -> dict[str, Any]:
        return {each.name: each for each in plan_stages(sizes, requirements, replace(config, **changes))}

    none, seven = stages(), stages(resident=7)
    assert len(none) == 9
    assert {name for name in none if seven[name].total > none[name].total} <= {"prepare", "sample"}
    assert seven["sample"].total - none["sample"].total == 7 * block
    streamed = {passes: stages(resident=40, passes=passes)["sample"].streamed for passes in GUIDANCE_PASSES}
    assert streamed == {"batched": 2 * block, "layer-major": 2 * block, "sequential": 4 * block}


def test_configurations_of_different_speed_have_different_labels() -> None:
    config = OffloadConfig(home=RAM, resident=2, passes="layer-major")
    changes: list[dict[str, Any]] = [{"resident": 3}, {"on_access": True}, {"steps_on_access": True}]
    changes += [{"decode": DecodePlan(8)}, {"decode": DecodePlan(8, "host")}]
    labels = {replace(config, **change).label for change in changes} | {config.label}
    assert len(labels) == 1 + len(changes)
