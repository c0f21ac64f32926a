"""The walk over the decoder's modules makes diffusers' frames, however it is cut."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hallo3.errors import InputError
from hallo3.geometry import LatentShape
from hallo3.vae.autoencoder import VideoVAE, build_vae
from hallo3.vae.causal_conv import Access, DeviceCache, Held, convolve
from hallo3.vae.decoder import decode_parts
from hallo3.vae.tiling import LARGEST, DecodePlan, cuts, least_strips
from support.random_vae import SMALL, diffusers_frames, latents_of, random_vae

ROUNDING = 1e-5
"""Of the largest value: float32, some forty layers deep."""


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return random_vae()


def walked(vae: VideoVAE, latents: Tensor, slices: list[int], plan: DecodePlan) -> Tensor:
    return torch.cat(list(decode_parts(vae.network.decoder, latents.split(slices, dim=2), plan)), dim=2)


def difference(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("strips", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("slices", [[1], [2], [3], [4], [5], [3, 2], [2, 2], [1, 2, 1], [3, 1, 1]])
def test_any_strips_and_slices_make_diffusers_frames(vae: VideoVAE, slices: list[int], strips: int) -> None:
    latents = latents_of(sum(slices))
    found = walked(vae, latents, slices, DecodePlan(strips))
    assert difference(found, diffusers_frames(vae, latents, slices)) <= ROUNDING


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width", "batch"), [(1, 1, 1), (2, 3, 1), (4, 2, 2)])
def test_small_pictures_and_several_at_once(vae: VideoVAE, height: int, width: int, batch: int) -> None:
    latents = latents_of(5, height, width, batch)
    wanted = diffusers_frames(vae, latents, [3, 2])
    for strips in (1, 2, 3):
        assert difference(walked(vae, latents, [3, 2], DecodePlan(strips)), wanted) <= ROUNDING


@torch.inference_mode()
@pytest.mark.parametrize("strips", [1, 3])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_where_caches_are_kept_changes_no_bit(strips: int, kind: torch.dtype) -> None:
    vae = random_vae()
    vae.network.decoder.to(kind)
    latents = latents_of(7).to(kind)
    on_device, in_host = (
        walked(vae, latents, [3, 2, 2], DecodePlan(strips, caches)) for caches in ("device", "host")
    )
    assert torch.equal(on_device, in_host)


@torch.inference_mode()
@pytest.mark.parametrize("strips", [1, 3])
def test_half_precision_errs_no_more_than_diffusers(strips: int) -> None:
    vae = random_vae()
    latents = latents_of(5, 6, 8).bfloat16()
    vae.network.decoder.bfloat16()
    ours = walked(vae, latents, [3, 2], DecodePlan(strips)).double()
    theirs = diffusers_frames(vae, latents, [3, 2]).double()
    vae.network.decoder.double()
    true = diffusers_frames(vae, latents.double(), [3, 2])
    assert 0 < (ours - true).norm() <= 1.05 * (theirs - true).norm()


@torch.inference_mode()
def test_double_precision_is_not_lost() -> None:
    double = random_vae()
    double.network.decoder.double()
    latents = latents_of(3).double()
    wanted = diffusers_frames(double, latents, [3])
    assert difference(walked(double, latents, [3], DecodePlan(2)), wanted) <= 1e-13


def test_gradients_are_not_recorded(vae: VideoVAE) -> None:
    frames = next(vae.decode(latents_of(1)))
    assert not frames.requires_grad


@torch.inference_mode()
def test_the_cache_is_one_tensor_a_convolution_and_strip(vae: VideoVAE) -> None:
    """Written over in place: after every slice the same tensors hold it."""

    class Seen(DeviceCache):
        def places(self) -> dict[Any, int]:
            return {key: kept.data_ptr() for key, kept in self._kept.items()}

    cache = Seen()
    slices = decode_parts(vae.network.decoder, latents_of(5).split([3, 2], dim=2), DecodePlan(3), cache=cache)
    next(slices)
    first = cache.places()
    next(slices)
    causal = [name for name, _ in vae.network.decoder.named_modules() if name.split(".")[-1] in CAUSAL]
    assert {name for name, _ in first} == set(causal)
    assert len(first) == 3 * len(causal)
    assert cache.places() == first


CAUSAL = ("conv_in", "conv1", "conv2", "conv_out")


@torch.inference_mode()
@pytest.mark.parametrize("strips", [1, 3])
def test_layers_are_borrowed_one_at_a_time_and_given_back(strips: int) -> None:
    """Hosts lend two buffers in turn: a layer must be given back before the next but one is borrowed. Weights
    that are held in another type are used in the latents'."""
    halves = random_vae()
    halves.network.decoder.half()
    out: list[nn.Module] = []
    borrowed: set[str] = set()
    names = {module: name for name, module in halves.network.decoder.named_modules()}

    @contextmanager
    def lend(layer: nn.Module, like: Tensor) -> Generator[Held]:
        assert not out
        out.append(layer)
        borrowed.add(names[layer])
        known: Any = layer
        yield known.weight.to(like), known.bias.to(like)
        out.remove(layer)

    parts = latents_of(5).split([3, 2], dim=2)
    found = torch.cat(
        list(decode_parts(halves.network.decoder, parts, DecodePlan(strips), Access(lend, convolve))), dim=2
    )
    held = {name for name, module in halves.network.decoder.named_modules() if hasattr(module, "weight")}
    assert borrowed == held
    assert not out
    halves.network.decoder.float()
    assert difference(found, diffusers_frames(halves, latents_of(5), [3, 2])) <= ROUNDING


@torch.inference_mode()
def test_a_vae_has_a_plan_of_its_own(vae: VideoVAE) -> None:
    latents = latents_of(3)
    assert build_vae(SMALL, DecodePlan(3)).plan == DecodePlan(3)
    own = random_vae()
    own.plan = DecodePlan(3, "host")
    found = next(own.decode(latents))
    assert torch.equal(found, next(vae.decode(latents, plan=DecodePlan(3))))
    assert torch.equal(next(own.decode(latents, plan=DecodePlan())), next(vae.decode(latents)))
    assert not torch.equal(found, next(vae.decode(latents)))  # the strips were taken: rounding tells


@pytest.mark.parametrize(("rows", "strips", "scale"), [(60, 1, 8), (60, 8, 8), (60, 16, 2), (5, 8, 4)])
def test_strips_are_whole_latent_rows_and_as_equal_as_can_be(rows: int, strips: int, scale: int) -> None:
    found = cuts(rows, strips, scale)
    assert len(found) == min(rows, strips)
    assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
    assert found[-1][1] == rows * scale
    heights = [last - first for first, last in found]
    assert all(height % scale == 0 for height in heights)
    assert max(heights) - min(heights) <= scale


def test_no_convolution_is_given_more_than_it_can_count() -> None:
    assert least_strips(256, LatentShape(3, 60, 90)) == 1
    larger = LatentShape(3, 96, 170)
    elements = 256 * (2 + 9) * larger.video.height * larger.video.width
    assert least_strips(256, larger) == -(-elements // LARGEST) == 3


@pytest.mark.parametrize(
    ("strips", "caches", "found"),
    [(0, "device", "0 strips"), (-1, "host", "-1 strips"), (1, "disk", '"disk"')],
)
def test_plans_that_cannot_be_are_refused(strips: int, caches: str, found: str) -> None:
    with pytest.raises(InputError) as refusal:
        DecodePlan(strips, caches)
    assert refusal.value.found == found
