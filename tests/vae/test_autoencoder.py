import pytest
import torch

from benchmarks.networks import as_diffusers, build_diffusers_vae
from hallo3.config import BUILT_IN, HALLO3, NANO, TINY, VAEConfig
from hallo3.models import Models
from hallo3.vae.autoencoder import VideoVAE, build_vae, decode_slices
from hallo3.vae.causal_conv import OneDNNConvolutions
from support.vae import SMALL, random_vae


@pytest.fixture(scope="module")
def vae(nano: Models) -> VideoVAE:
    with nano.vae as network:
        return network


def test_the_odd_latent_frame_joins_the_first_slice() -> None:
    for slices in ([1], [2], [3], [2, 2], [3, 2], [3, 2, 2, 2, 2, 2]):
        assert decode_slices(sum(slices)) == slices


@torch.inference_mode()
def test_slices_are_diffusers_and_leave_nothing_behind(vae: VideoVAE) -> None:
    """A decode stopped half-way does not touch the next one; later latents change no earlier frame."""
    latents = torch.linspace(-1, 1, 16 * 5 * 4 * 4).reshape(1, 16, 5, 4, 4)
    first = torch.cat(list(vae.decode(latents)), dim=2)
    assert first.shape == (1, 3, 17, 32, 32)
    assert torch.allclose(
        first, as_diffusers(vae, NANO.vae).decode(latents / vae.scaling_factor).sample, atol=1e-5
    )
    next(vae.decode(-latents))
    assert torch.equal(first, torch.cat(list(vae.decode(latents)), dim=2))
    latents[:, :, 3:] += 1
    assert torch.equal(next(vae.decode(latents)), first[:, :, :9])


@pytest.mark.parametrize("config", [HALLO3.vae, BUILT_IN.vae, TINY.vae, NANO.vae, SMALL])
def test_the_layers_are_diffusers(config: VAEConfig) -> None:
    ours, theirs = build_vae(config).network, build_diffusers_vae(config)
    shapes = [[(name, each.shape) for name, each in net.state_dict().items()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1], "the same names, shapes and order"
    for name, layer in theirs.named_modules():
        for field in ("eps", "compress_time"):
            if hasattr(layer, field):
                assert getattr(ours.get_submodule(name), field) == getattr(layer, field), name


@torch.inference_mode()
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 2), (1, 3), (1, 4), (2, 9), (1, 17)])
def test_encoding_is_diffusers_bit_for_bit(batch: int, frames: int, kind: torch.dtype) -> None:
    vae = random_vae(SMALL)
    vae.network.to(kind)
    clip = torch.randn(batch, 3, frames, 16, 24, generator=torch.Generator().manual_seed(frames)).to(kind)
    before = clip.clone()
    with OneDNNConvolutions():
        expected, _ = as_diffusers(vae, SMALL).encoder(clip)
    assert torch.equal(torch.cat(vae.posterior(clip), dim=1), expected)
    assert torch.equal(clip, before)


@torch.inference_mode()
def test_encoding_takes_the_mean_unless_given_noise(vae: VideoVAE) -> None:
    clip = torch.linspace(-1, 1, 3 * 3 * 32 * 32).reshape(1, 3, 3, 32, 32)
    posterior = vae.posterior(clip)
    assert torch.equal(vae.encode(clip), posterior.mean * vae.scaling_factor)
    noise = torch.ones_like(posterior.mean)
    sampled = vae.encode(clip, noise) / vae.scaling_factor
    assert torch.allclose(sampled - posterior.mean, (posterior.log_variance / 2).exp(), atol=1e-5)
