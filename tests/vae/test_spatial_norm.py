"""The spatial norm at the latents' size: which latent a frame and a pixel look at, and exact statistics."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallo3.vae.causal_conv import Access
from hallo3.vae.decoder import repeats, upsampled
from hallo3.vae.spatial_norm import moments, normalized, pointwise, runs, spread
from support.random_vae import latents_of, random_vae


def interpolated(latents: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The plain rule: the first of an odd number of frames is looked up apart."""
    if size[0] > 1 and size[0] % 2:
        first, rest = latents[:, :, :1], latents[:, :, 1:]
        rest = F.interpolate(rest, size=(size[0] - 1, *size[1:]))
        return torch.cat((F.interpolate(first, size=(1, *size[1:])), rest), dim=2)
    return F.interpolate(latents, size=size)


def laid_out(latents: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The same by runs and spreading."""
    parts = [
        spread(latents[:, :, run.latent_first : run.latent_last], size[2] // latents.shape[4])
        .expand(
            -1,
            -1,
            -1,
            (run.last - run.first) // (run.latent_last - run.latent_first),
            -1,
            size[1] // latents.shape[3],
            -1,
        )
        .flatten(4, 5)
        .flatten(2, 3)
        for run in runs(size[0], latents.shape[2])
    ]
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize(
    ("latent_frames", "frames"),
    [(1, 1), (2, 2), (2, 4), (2, 8), (3, 3), (3, 5), (3, 9), (4, 16), (5, 17)],
)
@pytest.mark.parametrize("scale", [1, 2, 8])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_looking_up_before_spreading_changes_no_bit(
    latent_frames: int, frames: int, scale: int, kind: torch.dtype
) -> None:
    norm: Any = random_vae().network.decoder.norm_out.to(kind)
    latents = latents_of(latent_frames).to(kind)
    size = (frames, 5 * scale, 6 * scale)
    for layer in (norm.conv_y.conv, norm.conv_b.conv):
        assert torch.equal(
            laid_out(pointwise(layer, latents, Access()), size), layer(interpolated(latents, size))
        )


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_statistics_are_those_of_all_numbers(kind: torch.dtype, offset: float) -> None:
    x = (torch.randn(2, 8, 3, 40, 50, generator=torch.Generator().manual_seed(1)) + offset).to(kind)
    mean, variance = moments(x, 4)
    true = x.double().view(2, 4, -1)
    assert mean.dtype == variance.dtype == torch.float32
    assert torch.allclose(mean.double(), true.mean(-1), rtol=1e-6, atol=1e-6)
    assert torch.allclose(variance.double(), true.var(-1, correction=0), rtol=1e-3 if offset else 1e-5)


def test_statistics_do_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 8, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    whole = moments(x, 2)
    monkeypatch.setattr("hallo3.vae.spatial_norm.PIECE", {"cpu": 1})
    assert all(torch.equal(one, other) for one, other in zip(whole, moments(x, 2), strict=True))


@torch.inference_mode()
def test_rows_in_pieces_are_the_norm_and_silu(monkeypatch: pytest.MonkeyPatch) -> None:
    norm: Any = random_vae().network.decoder.norm_out
    latents = latents_of(3)
    x = torch.randn(1, norm.norm_layer.num_channels, 9, 20, 24, generator=torch.Generator().manual_seed(3))
    wanted = F.silu(norm(x, latents)[0])
    for piece in (2**22, 1):
        monkeypatch.setattr("hallo3.vae.spatial_norm.PIECE", {"cpu": piece})
        source = normalized(norm, x, latents, Access())
        found = torch.empty_like(x)
        source.fill(found[:, :, :, :8], 0, 8)
        source.fill(found[:, :, :, 8:], 8, 20)
        assert torch.allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("strips", [1, 2, 5])
@torch.inference_mode()
def test_upsampling_is_diffusers(
    frames: int, in_time: bool, strips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: Any = random_vae().network.decoder.up_blocks
    upsampler = blocks[0 if in_time else 2].upsamplers[0]
    assert upsampler.compress_time is in_time
    x = torch.randn(1, upsampler.conv.in_channels, frames, 10, 6, generator=torch.Generator().manual_seed(4))
    edges = [10 * index // strips for index in range(strips + 1)]
    wanted = upsampler(x)
    for piece in (2**22, 1):
        monkeypatch.setattr("hallo3.vae.spatial_norm.PIECE", {"cpu": piece})
        found = upsampled(upsampler, x, list(pairwise(edges)), Access())
        assert torch.allclose(found, wanted, atol=2e-6)
    assert found.shape[2] == sum(
        (last - first) * times for first, last, times in repeats(frames, in_time=in_time)
    )
