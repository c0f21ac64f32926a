"""Muon for matrices and convolutions, AdamW for the rest, and the average that is shipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix update is made orthogonal (Jordan et al. 2024, "Muon").

    Weights with more than two dimensions are matrices of their output channels. For what is smaller, use
    another optimiser.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum: Tensor = state["momentum"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(momentum, group["momentum"]).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.add_(orthogonal(update).view_as(weight), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values around 1, by Newton-Schulz iterations.

    They run on the small square X X^T, which gives the same as running them on X.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.mT
    x = x / (x.norm() + 1e-7)
    square = x @ x.mT
    one = torch.eye(len(square), dtype=x.dtype, device=x.device)
    total = one
    for _ in range(ITERATIONS):
        factor = a * one + b * square + c * square @ square
        total = factor @ total
        square = factor @ square @ factor
    x = total @ x
    return x if wide else x.mT


class Optimiser:
    """Muon for what is a matrix and not named otherwise, AdamW for norms, biases, tables and ends.

    The learning rate warms up, stays, and falls linearly to a twentieth over the last part.
    """

    def __init__(
        self,
        network: nn.Module,
        steps: int,
        *,
        muon: float,
        adamw: float,
        ends: tuple[str, ...] = (),
        warmup: int = 30,
        cooldown: float = 0.4,
    ) -> None:
        named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
        matrices = [w for n, w in named if w.ndim > 1 and not any(end in n for end in ends)]
        chosen = {id(weight) for weight in matrices}
        rest = [w for _, w in named if id(w) not in chosen]
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=muon),
            torch.optim.AdamW(rest, lr=adamw, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.weights = [weight for _, weight in named]
        self.rates = [muon, adamw]
        self.steps, self.warmup, self.cooldown = steps, warmup, cooldown

    def step(self, index: int, clip: float = 1.0) -> float:
        """Clip, update, forget the gradients; returns the gradient's norm."""
        norm = float(nn.utils.clip_grad_norm_(self.weights, clip))
        if math.isfinite(norm):
            for part, rate in zip(self.parts, self.rates, strict=True):
                for group in part.param_groups:
                    group["lr"] = rate * self.share(index)
                part.step()
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        return norm

    def share(self, index: int) -> float:
        """The learning rate at a step, in shares of its highest."""
        left = (self.steps - index) / max(1.0, self.cooldown * self.steps)
        return min(1.0, (index + 1) / self.warmup, max(0.05, left))

    def state_dict(self) -> dict[str, Any]:
        """What both parts remember."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


class Average:
    """An exponential average of a network's weights: what is shipped."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.kept = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step; early steps count for less long."""
        decay = min(self.decay, (step + 1) / (step + 10))
        for name, value in self.network.state_dict().items():
            self.kept[name].lerp_(value.to(self.kept[name]), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The average itself."""
        return self.kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.kept = {name: state[name].to(value, copy=True) for name, value in self.kept.items()}
