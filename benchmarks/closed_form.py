"""Data whose ideal denoiser is known: mixtures of correlated normal distributions, and how far samples are.

A latent [1, C, 1, N, 1] here holds N independent samples of C numbers, so that samplers, step cache and
guidance are the package's own and run unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hallo3.noise import make_generator
from hallo3.sampling.schedule import Schedule, denoiser_table


def drawn(name: str, *shape: int) -> Tensor:
    """Standard normal numbers by name, float64."""
    return torch.from_numpy(make_generator(name).standard_normal(shape))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Normal distributions ``weights`` [K], ``means`` [K, C], covariances ``axes diag(sizes) axes^T``
    ([K, C, C], [K, C]), all float64."""

    weights: Tensor
    means: Tensor
    axes: Tensor
    sizes: Tensor

    def part(self, chosen: slice) -> Mixture:
        """Some of the components, as a distribution of their own."""
        weights = self.weights[chosen]
        return Mixture(weights / weights.sum(), self.means[chosen], self.axes[chosen], self.sizes[chosen])

    def samples(self, count: int, name: str) -> Tensor:
        """True samples [count, C]."""
        generator = make_generator(f"{name} which")
        shares = self.weights.numpy() / self.weights.sum().item()
        which = torch.from_numpy(generator.choice(len(shares), count, p=np.asarray(shares)))
        own = drawn(name, count, self.means.shape[1]) * self.sizes[which].sqrt()
        return self.means[which] + torch.einsum("ncd,nd->nc", self.axes[which], own)

    def denoised(self, noisy: Tensor, alpha: float) -> Tensor:
        """E[x0 | noisy], [N, C] float64, where ``noisy`` = alpha x0 + sqrt(1 - alpha^2) noise."""
        spread = alpha**2 * self.sizes + 1 - alpha**2
        centred = torch.einsum("nkc,kcd->nkd", noisy[:, None] - alpha * self.means, self.axes)
        score = self.weights.log() - (centred.square() / spread + spread.log()).sum(dim=2) / 2
        shrunk = torch.einsum("nkd,kcd->nkc", centred * (alpha * self.sizes / spread), self.axes)
        return (score.softmax(dim=1)[..., None] * (self.means + shrunk)).sum(dim=1)

    def velocity(self, noisy: Tensor, alpha: float) -> Tensor:
        """What a perfect network predicts: (alpha noisy - E[x0 | noisy]) / sqrt(1 - alpha^2)."""
        return (alpha * noisy - self.denoised(noisy, alpha)) / (1 - alpha**2) ** 0.5


def mixture(components: int, channels: int, name: str, apart: float = 1.0) -> Mixture:
    """Components of unequal weight and correlated channels; the whole has about the size of latents, 1."""
    weights = torch.from_numpy(make_generator(f"{name} weights").uniform(0.5, 1.5, components))
    axes = torch.linalg.qr(drawn(f"{name} axes", components, channels, channels)).Q
    sizes = torch.logspace(0, -3, channels, dtype=torch.float64).repeat(components, 1) * 0.6
    means = apart * drawn(f"{name} means", components, channels)
    return Mixture(weights / weights.sum(), means, axes, sizes)


def perfect(branches: tuple[Mixture, ...], schedule: Schedule) -> Callable[[Tensor, int], Tensor]:
    """A perfect network's velocities of every branch: it believes the timestep that it is told, as the
    released one does, which is a little off the alpha where the sampler stands (golden ``schedule``)."""
    table = denoiser_table()

    def predict(latents: Tensor, step: int) -> Tensor:
        alpha = float(table[int(schedule.steps[step].timestep)])
        noisy = as_samples(latents)
        return torch.cat([as_latents(branch.velocity(noisy, alpha)) for branch in branches])

    return predict


def as_samples(latents: Tensor) -> Tensor:
    """[1, C, 1, N, 1] -> [N, C] float64."""
    return latents[0, :, 0, :, 0].T.double()


def as_latents(samples: Tensor) -> Tensor:
    """[N, C] -> [1, C, 1, N, 1] float32."""
    return samples.T[None, :, None, :, None].float()


def sliced_w2(found: Tensor, wanted: Tensor, directions: int = 128) -> float:
    """Sliced Wasserstein-2 distance of two sets of samples [N, C] (Bonneel et al. 2015): 0 for equal sets."""
    ways = drawn("directions", found.shape[1], directions)
    ways = ways / ways.norm(dim=0)
    gap = (found @ ways).sort(dim=0).values - (wanted @ ways).sort(dim=0).values
    return float(gap.square().mean().sqrt())


def energy_distance(found: Tensor, wanted: Tensor) -> float:
    """Energy distance of two sets of samples [N, C] (Szekely and Rizzo 2013), unbiased: about 0, and now and
    then below, for samples of one distribution."""

    def own(points: Tensor) -> float:
        return float(torch.cdist(points, points).sum()) / (len(points) * (len(points) - 1))

    return 2 * float(torch.cdist(found, wanted).mean()) - own(found) - own(wanted)
