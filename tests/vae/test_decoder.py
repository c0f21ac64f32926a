import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.networks import as_diffusers
from hallo3.vae import decoder
from hallo3.vae.autoencoder import VideoVAE, build_vae
from hallo3.vae.causal_conv import CausalCache, DecodePlan, LayerAccess, WeightAndBias, convolve
from hallo3.vae.decoder import decode_parts, group_moments
from support.vae import SMALL, random_vae

ROUNDING = 1e-5
"""Of the largest value: float32, some forty layers deep."""


def latents_of(frames: int, height: int = 5, width: int = 6, batch: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(frames)
    return torch.randn(batch, 16, frames, height, width, generator=draw)


def diffusers_frames(vae: VideoVAE, latents: Tensor, slices: Sequence[int]) -> Tensor:
    """Frames by diffusers' decoder of unscaled latents in these slices."""
    network = as_diffusers(vae, SMALL)
    cache, parts = None, list[Tensor]()
    for part in torch.split(latents, list(slices), dim=2):
        frames, cache = network.decoder(part, conv_cache=cache)
        parts.append(frames)
    return torch.cat(parts, dim=2)


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return random_vae()


def decode(vae: VideoVAE, latents: Tensor, slices: list[int], plan: DecodePlan) -> Tensor:
    return torch.cat(list(decode_parts(vae.network.decoder, latents.split(slices, dim=2), plan)), dim=2)


def difference(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


SLICES = [(slices, ()) for slices in ([1], [2], [3], [4], [5], [3, 2], [2, 2], [1, 2, 1], [3, 1, 1])]
SMALL_AND_SEVERAL = [([3, 2], (1, 1, 1)), ([3, 2], (2, 3, 1)), ([3, 2], (4, 2, 2))]


@torch.inference_mode()
@pytest.mark.parametrize(("slices", "size"), SLICES + SMALL_AND_SEVERAL)
def test_any_strips_and_slices_make_diffusers_frames(vae: VideoVAE, slices: list[int], size: Any) -> None:
    latents = latents_of(sum(slices), *size)
    expected = diffusers_frames(vae, latents, slices)
    for strips in (1, 2, 3, 4, 5, 8):
        assert difference(decode(vae, latents, slices, DecodePlan(strips)), expected) <= ROUNDING


@torch.inference_mode()
@pytest.mark.parametrize("strips", [1, 3])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_where_caches_are_kept_changes_no_bit(strips: int, kind: torch.dtype) -> None:
    vae = random_vae()
    vae.network.decoder.to(kind)
    plans = DecodePlan(strips, "device"), DecodePlan(strips, "host")
    on_device, in_host = (decode(vae, latents_of(7).to(kind), [3, 2, 2], plan) for plan in plans)
    assert torch.equal(on_device, in_host)


@torch.inference_mode()
def test_half_precision_errs_no_more_than_diffusers_and_double_is_not_lost() -> None:
    vae, plans = random_vae(), [DecodePlan(1), DecodePlan(3)]
    latents = latents_of(5, 6, 8).bfloat16()
    vae.network.decoder.bfloat16()
    ours = [decode(vae, latents, [3, 2], plan).double() for plan in plans]
    theirs = diffusers_frames(vae, latents, [3, 2]).double()
    vae.network.decoder.double()
    true = diffusers_frames(vae, latents.double(), [3, 2])
    assert all(0 < (each - true).norm() <= 1.05 * (theirs - true).norm() for each in ours)
    assert all(difference(decode(vae, latents.double(), [3, 2], plan), true) <= 1e-13 for plan in plans)


@torch.inference_mode()
def test_the_cache_is_one_buffer_of_a_part_per_convolution_and_strip(vae: VideoVAE) -> None:
    """Filled to the last number, and written over in place: after every slice the same parts hold it."""

    class Seen(CausalCache):
        def places(self) -> dict[Any, int]:
            assert not self._free.numel()
            assert len({each.untyped_storage().data_ptr() for each in self._frames.values()}) == 1
            return {key: frames.data_ptr() for key, frames in self._frames.items()}

    cache = Seen()
    slices = decode_parts(vae.network.decoder, latents_of(5).split([3, 2], dim=2), DecodePlan(3), cache=cache)
    next(slices)
    first = cache.places()
    next(slices)
    last = ("conv_in", "conv1", "conv2", "conv_out")
    causal = [name for name, _ in vae.network.decoder.named_modules() if name.split(".")[-1] in last]
    assert {name for name, _ in first} == set(causal)
    assert len(first) == 3 * len(causal)
    assert cache.places() == first


@torch.inference_mode()
def test_the_large_tensors_of_a_decode_are_made_once(vae: VideoVAE) -> None:
    """In strips, but on a CPU: the caches, two results of layers and a strip's input, before anything else;
    later slices make nothing that is as large as a result."""

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name() in ("aten::empty.memory_format", "aten::new_empty"):
                made.append(prod(args[0] if isinstance(args[0], list) else args[1]))
            return func(*args, **(kwargs or {}))

    made: list[int] = []
    decoder = copy.deepcopy(vae.network.decoder).to("meta")
    parts = latents_of(9, 12, 8).to("meta").split([3, 2, 2, 2], 2)
    slices = decode_parts(decoder, parts, DecodePlan(6))
    with Sizes():
        next(slices)
        first = made[:4]
        assert max(made[4:]) < min(first[1:3])
        made.clear()
        assert len(list(slices)) == 3
        assert max(made) < min(first[1:3])


@torch.inference_mode()
@pytest.mark.parametrize("strips", [1, 3])
def test_layers_are_borrowed_one_at_a_time_and_given_back(strips: int) -> None:
    """Hosts lend two buffers in turn. Weights that are held in another type are used in the latents'."""
    halves, out, borrowed = random_vae(), list[nn.Module](), set[str]()
    halves.network.decoder.half()
    names = {module: name for name, module in halves.network.decoder.named_modules()}

    @contextmanager
    def lend(layer: nn.Module, like: Tensor) -> Generator[WeightAndBias]:
        assert not out
        out.append(layer)
        borrowed.add(names[layer])
        module: Any = layer
        yield module.weight.to(like), module.bias.to(like)
        out.remove(layer)

    parts, access = latents_of(5).split([3, 2], dim=2), LayerAccess(lend, convolve)
    actual = torch.cat(list(decode_parts(halves.network.decoder, parts, DecodePlan(strips), access)), dim=2)
    assert borrowed == {name for module, name in names.items() if hasattr(module, "weight")}
    assert not out
    halves.network.decoder.float()
    assert difference(actual, diffusers_frames(halves, latents_of(5), [3, 2])) <= ROUNDING


def test_a_vae_has_a_plan_of_its_own(vae: VideoVAE) -> None:
    latents, own = latents_of(3), random_vae()
    assert build_vae(SMALL, DecodePlan(3)).plan == DecodePlan(3)
    own.plan = DecodePlan(3, "host")
    actual = next(own.decode(latents))
    assert not actual.requires_grad
    assert torch.equal(actual, next(vae.decode(latents, plan=DecodePlan(3))))
    assert torch.equal(next(own.decode(latents, plan=DecodePlan())), next(vae.decode(latents)))
    assert not torch.equal(actual, next(vae.decode(latents)))  # the strips were taken: rounding tells


def interpolate(latents: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The plain rule: the first of an odd number of frames is looked up apart."""
    if size[0] > 1 and size[0] % 2:
        first, rest = latents[:, :, :1], latents[:, :, 1:]
        rest = F.interpolate(rest, size=(size[0] - 1, *size[1:]))
        return torch.cat((F.interpolate(first, size=(1, *size[1:])), rest), dim=2)
    return F.interpolate(latents, size=size)


def enlarge(latents: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The same by spans and repetition."""
    down, across = size[1] // latents.shape[3], size[2] // latents.shape[4]
    parts: list[Tensor] = []
    for frames, part in decoder.frame_spans(size[0], latents.shape[2]):
        times = (frames.stop - frames.start) // (part.stop - part.start)
        wide = decoder.enlarge_width(latents[:, :, part], across)[:, :, :, None, :, None]
        wide = wide.expand(-1, -1, -1, times, -1, down, -1)
        parts.append(wide.flatten(4, 5).flatten(2, 3))
    return torch.cat(parts, dim=2)


FRAMES = [(1, 1), (2, 2), (2, 4), (2, 8), (3, 3), (3, 5), (3, 9), (4, 16), (5, 17)]


@pytest.mark.parametrize("scale", [1, 2, 8])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_looking_up_before_spreading_changes_no_bit(scale: int, kind: torch.dtype) -> None:
    norm: Any = as_diffusers(random_vae(), SMALL).decoder.norm_out.to(kind)
    for (latent_frames, frames), name in product(FRAMES, ("conv_y", "conv_b")):
        latents, layer = latents_of(latent_frames).to(kind), getattr(norm, name).conv
        size = (frames, 5 * scale, 6 * scale)
        small = decoder.convolve_pointwise(layer, latents, LayerAccess())
        assert torch.equal(enlarge(small, size), layer(interpolate(latents, size)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_moments_of_all_numbers(kind: torch.dtype, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (torch.randn(2, 8, 3, 40, 50, generator=torch.Generator().manual_seed(1)) + offset).to(kind)
    mean, variance = group_moments(x, 4)
    true = x.double().view(2, 4, -1)
    assert mean.dtype == variance.dtype == torch.float32
    assert torch.allclose(mean.double(), true.mean(-1), rtol=1e-6, atol=1e-6)
    assert torch.allclose(variance.double(), true.var(-1, correction=0), rtol=1e-3 if offset else 1e-5)
    monkeypatch.setattr(decoder, "CHUNK_ELEMENTS", {"cpu": 1})
    assert torch.equal(torch.stack(group_moments(x, 4)), torch.stack((mean, variance))), "in pieces"


@torch.inference_mode()
def test_rows_in_pieces_are_the_norm_and_silu(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, latents = as_diffusers(random_vae(), SMALL).decoder.norm_out, latents_of(3)
    x = torch.randn(1, norm.norm_layer.num_channels, 9, 20, 24, generator=torch.Generator().manual_seed(3))
    expected = F.silu(norm(x, latents)[0])
    for piece in (2**22, 1):
        monkeypatch.setattr(decoder, "CHUNK_ELEMENTS", {"cpu": piece})
        source, actual = decoder.norm_input(norm, x, latents, LayerAccess()), torch.empty_like(x)
        source.fill(actual[:, :, :, :8], 0, 8)
        source.fill(actual[:, :, :, 8:], 8, 20)
        assert torch.allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("in_time", [True, False])
@torch.inference_mode()
def test_upsampling_is_diffusers(frames: int, in_time: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: Any = as_diffusers(random_vae(), SMALL).decoder.up_blocks
    upsampler = blocks[0 if in_time else 2].upsamplers[0]
    assert upsampler.compress_time is in_time
    x = torch.randn(1, upsampler.conv.in_channels, frames, 10, 6, generator=torch.Generator().manual_seed(4))
    expected = upsampler(x)
    assert len(expected[0, 0]) == sum((b - a) * n for a, b, n in decoder.repeats(frames, in_time=in_time))
    for strips, piece in product((1, 2, 5), (2**22, 1)):
        monkeypatch.setattr(decoder, "CHUNK_ELEMENTS", {"cpu": piece})
        edges = [10 * index // strips for index in range(strips + 1)]
        actual = decoder.upsample(upsampler, x, list(pairwise(edges)), LayerAccess())
        assert torch.allclose(actual, expected, atol=2e-6)
