"""Muon for matrices and convolutions, AdamW for the rest, and the weight average that is shipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .parallel import average_gradients

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalized update (Jordan et al. 2024).

    For weights of two or more dimensions, flattened to [output channels, rest]. torch.optim.Muon takes
    matrices only, so not convolutions.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes.setdefault(weight.flatten(1).shape, []).append(weight)
            for (rows, columns), weights in shapes.items():
                directions = torch.stack([self._direction(w, group["momentum"]) for w in weights])
                updates = orthogonalize(directions)
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.add_(update.view_as(weight), alpha=-rate)

    def _direction(self, weight: nn.Parameter, decay: float) -> Tensor:
        """Nesterov's momentum, as a matrix."""
        state, gradient = self.state[weight], cast(Tensor, weight.grad)
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - decay)
        return gradient.lerp(momentum, decay).flatten(1)


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest matrices [..., rows, columns] with singular values around 1, by Newton-Schulz iterations in
    bfloat16."""
    a, b, c = NEWTON_SCHULZ
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(NEWTON_SCHULZ_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.to(matrices.dtype) if wide else x.mT.to(matrices.dtype)


class Optimiser:
    """Muon for matrices, AdamW for norms, biases and layers whose name contains one of ``adamw_layers``.

    The learning rate warms up, stays constant, and falls linearly to a twentieth over the last part.
    """

    def __init__(
        self,
        network: nn.Module,
        steps: int,
        *,
        muon: float,
        adamw: float,
        adamw_layers: tuple[str, ...] = (),
        warmup: int = 30,
        cooldown: float = 0.4,
    ) -> None:
        named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
        matrices = [w for n, w in named if w.ndim > 1 and not any(layer in n for layer in adamw_layers)]
        matrix_ids = {id(weight) for weight in matrices}
        rest = [w for _, w in named if id(w) not in matrix_ids]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=muon),
            torch.optim.AdamW(rest, lr=adamw, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.weights = [weight for _, weight in named]
        self.rates = [muon, adamw]
        self.steps, self.warmup, self.cooldown = steps, warmup, cooldown

    def step(self, index: int, clip: float = 1.0) -> float:
        """Clip the gradients, update, clear them; returns their norm."""
        average_gradients(self.weights)
        norm = float(nn.utils.clip_grad_norm_(self.weights, clip))
        if math.isfinite(norm):
            left = (self.steps - index) / max(1.0, self.cooldown * self.steps)
            factor = min(1.0, (index + 1) / self.warmup, max(0.05, left))
            for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {str(i): optimizer.state_dict() for i, optimizer in enumerate(self.optimizers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(state[str(i)])


class WeightAverage:
    """An exponential average of a network's weights."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after a step; the decay is shorter in early steps."""
        decay = min(self.decay, (step + 1) / (step + 10))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value.to(self.average[name]), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return self.average

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = {name: state[name].to(value, copy=True) for name, value in self.average.items()}
