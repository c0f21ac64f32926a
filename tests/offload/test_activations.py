"""What computations hold, by formula and counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.rehearsal import META
from benchmarks.tracking import Tracker, attention
from hallo3.config import HALLO3, TEXT_ENCODERS
from hallo3.model.conditions import SegmentConditions
from hallo3.model.guidance import GUIDANCE_PASSES, single_branch
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.layers import Layers
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.offload import activations as of
from hallo3.offload.budget import GB
from hallo3.quantization.precision import PRECISIONS
from hallo3.text_encoder import build_t5
from hallo3.vae.autoencoder import build_vae

CPU, BF16 = torch.device("cpu"), torch.bfloat16
LATENT, TRUNK = HALLO3.segment.shape.latent, HALLO3.trunk


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device=META, dtype=BF16)


def layers(*, fused: bool) -> Layers:
    return Layers(device="meta", dtype=BF16, kernels=FUSED if fused else PLAIN, attention=attention)


def peak(run: Callable[[], object]) -> int:
    with Tracker("meta") as tracker, torch.inference_mode():
        kept = run()
        found = tracker.peak
        del kept
    return found


def close(formula: int, counted: int) -> None:
    """Never too little, at most 15 % too much."""
    assert counted <= formula <= 1.15 * counted, (
        f"{formula / GB:.3f} GB planned, {counted / GB:.3f} GB counted"
    )


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_holds_what_the_formula_says(fused: bool) -> None:
    dit = Hallo3Transformer(HALLO3, layers(fused=fused))
    features = [meta(1, LATENT.tokens_per_frame, TRUNK.width) for _ in range(TRUNK.layers)]
    prompt = meta(1, TRUNK.text_tokens, TRUNK.text_dim)
    noisy = torch.empty(1, TRUNK.latent_channels, *LATENT, device=META)
    with torch.inference_mode():
        run = dit.prepare(features, meta(1, 512), prompt, torch.tensor([999.0]))
        heard = SegmentConditions(audio=dit.encode_audio(meta(1, *dit.window_shape)), image_latents=noisy)
    for name, branches in {**GUIDANCE_PASSES, "one": single_branch}.items():

        def step(branches: Any = branches) -> object:
            latents = [torch.empty_like(noisy) for _ in range(4)]  # what a sampler holds
            return latents, branches(dit, run, heard)(latents[0], 0)

        count = 1 if name == "one" else 2
        formula = of.sampling(HALLO3, PRECISIONS["bf16"], passes=name, branches=count, fused=fused)
        close(formula, peak(step))


@pytest.mark.parametrize("fused", [True, False])
def test_the_reference_network_holds_what_the_formula_says(fused: bool) -> None:
    network = ReferenceNetwork(TRUNK, LATENT, layers(fused=fused))
    latents = meta(1, TRUNK.latent_channels, 1, LATENT.height, LATENT.width)
    formula = of.reading(HALLO3, PRECISIONS["bf16"], fused=fused) + of.features(HALLO3, 2)
    close(formula, peak(lambda: network.features(latents)))


@pytest.mark.parametrize("frames", [1, 3])
def test_the_encoder_holds_what_the_formula_says(frames: int) -> None:
    vae = build_vae(HALLO3.vae)
    vae.network.to(BF16)
    shape = HALLO3.segment.shape
    pixels = meta(1, 3, frames, shape.height, shape.width)
    close(of.encoding(HALLO3, frames, 2), peak(lambda: vae.encode(pixels)))


def test_t5_and_the_audio_projection_hold_what_the_formulas_say() -> None:
    t5 = build_t5(TEXT_ENCODERS["hallo3"]).to(BF16)
    ids = torch.zeros(1, TRUNK.text_tokens, dtype=torch.long, device=META)
    close(of.prompting(TEXT_ENCODERS["hallo3"], HALLO3, 2), peak(lambda: t5(input_ids=ids)))
    dit = Hallo3Transformer(HALLO3, layers(fused=True))
    close(of.hearing(HALLO3, 2), peak(lambda: dit.audio_proj(meta(1, *dit.window_shape))))
