import pytest
import torch

from hallo3.models import Models
from hallo3.vae.autoencoder import VideoVAE, decode_slices


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
    assert torch.allclose(first, vae.network.decode(latents / vae.scaling_factor).sample, atol=1e-5)
    next(vae.decode(-latents))
    assert torch.equal(first, torch.cat(list(vae.decode(latents)), dim=2))
    latents[:, :, 3:] += 1
    assert torch.equal(next(vae.decode(latents)), first[:, :, :9])


@torch.inference_mode()
def test_encoding_takes_the_mean_unless_given_noise(vae: VideoVAE) -> None:
    clip = torch.linspace(-1, 1, 3 * 3 * 32 * 32).reshape(1, 3, 3, 32, 32)
    posterior = vae.posterior(clip)
    assert torch.equal(vae.encode(clip), posterior.mean * vae.scaling_factor)
    noise = torch.ones_like(posterior.mean)
    sampled = vae.encode(clip, noise) / vae.scaling_factor
    assert torch.allclose(sampled - posterior.mean, (posterior.log_variance / 2).exp(), atol=1e-5)
