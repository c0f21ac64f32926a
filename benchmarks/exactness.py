"""How far each exact saving is from float64, beside the original's way: ``python -m benchmarks.exactness``.

The same weights in float64 are the truth. ``original`` is the baseline in bfloat16; each saving is ours in
bfloat16 with that saving on top of those before it. Rounding is luck in a single case, so errors are root
mean squares over draws. Weights: Gaussian, heavy-tailed (Student's t, 3 degrees of freedom), and with a few
large output channels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.baseline import Baseline
from hallo3.config import TINY, Hallo3Config
from hallo3.model.conditions import SegmentConditions
from hallo3.model.guidance import GUIDANCE_PASSES, Predict
from hallo3.model.kernels.eager import PLAIN, Kernels
from hallo3.model.kernels.fused import FUSED
from hallo3.model.layers import Layers, LazyParameters
from hallo3.model.transformer import Hallo3Transformer
from hallo3.noise import make_generator
from hallo3.sampling.samplers import guided_denoiser, sample_dpmpp_2m_sde
from hallo3.sampling.schedule import make_schedule

CONFIG = replace(
    TINY,
    trunk=replace(TINY.trunk, layers=3, heads=2, head_dim=64, text_tokens=16),
    segment=replace(TINY.segment, frames=17, height=48, width=64),
)
"""Heads as wide as the released model's; few tokens."""
KINDS = ("gaussian", "heavy-tailed", "outlier channels")
BOUND = 1.05
STEP = 12
"""Of 50, for errors of one step and one block."""


def weights(config: Hallo3Config, kind: str, draw: int) -> dict[str, Tensor]:
    """The transformer's state in float64, values of a kind, as bfloat16 holds them."""
    shapes = Hallo3Transformer(config, Layers(device="meta")).state_dict()
    return {name: _values(tensor, name, kind, draw).bfloat16().double() for name, tensor in shapes.items()}


def _values(tensor: Tensor, name: str, kind: str, draw: int) -> Tensor:
    source, shape = make_generator(f"{kind}|{draw}|{name}"), tuple(tensor.shape)
    if tensor.ndim == 1:
        return torch.from_numpy(source.standard_normal(shape)) * 0.1 + float(
            "norm" in name and "weight" in name
        )
    heavy = kind == "heavy-tailed"
    drawn = source.standard_t(3, shape) / 3**0.5 if heavy else source.standard_normal(shape)
    values = torch.from_numpy(drawn) / np.prod(shape[1:]) ** 0.5
    if kind == "outlier channels":
        values[torch.from_numpy(source.permutation(len(values))[: max(1, len(values) // 50)])] *= 20
    return values


@dataclass(frozen=True, slots=True)
class Case:
    """Weights and inputs of one draw."""

    config: Hallo3Config
    state: dict[str, Tensor]
    draw: int

    def tensor(self, name: str, *shape: int) -> Tensor:
        """An input, as bfloat16 holds it."""
        drawn = make_generator(f"exactness|{self.draw}|{name}").standard_normal(shape)
        return torch.from_numpy(drawn).bfloat16().double()

    def network(self, dtype: torch.dtype, kernels: Kernels = PLAIN) -> Hallo3Transformer:
        """The transformer in a type."""
        dit = Hallo3Transformer(self.config, Layers(device="meta", kernels=kernels))
        dit.load_state_dict({name: value.to(dtype) for name, value in self.state.items()}, assign=True)
        return dit.requires_grad_(False)

    def baseline(self, dtype: torch.dtype, steps: int) -> Baseline:
        """The original's way in a type."""
        trunk, dit = self.config.trunk, self.network(dtype)
        grid = dit.latent
        return Baseline(
            dit=dit,
            features=[
                self.tensor(f"feature {i}", 1, grid.tokens_per_frame, trunk.width).to(dtype)
                for i in range(trunk.layers)
            ],
            face=self.tensor("face", 1, self.config.face.embedding_dim).to(dtype),
            prompt=self.tensor("prompt", 1, trunk.text_tokens, trunk.text_dim).to(dtype),
            windows=self.tensor("windows", 1, *dit.window_shape).to(dtype),
            image_latents=self.tensor("image", 1, trunk.latent_channels, *grid).to(dtype),
            timesteps=make_schedule(steps).timesteps,
        )


class Saving(NamedTuple):
    """A way to take a step: whose kernels, whether the face is folded, and how the branches are computed."""

    kernels: Kernels
    folded: bool
    passes: str

    def predict(self, case: Case, plain: Baseline) -> Predict:
        """The step in bfloat16."""
        dit = case.network(torch.bfloat16, self.kernels)
        run = dit.prepare(plain.features, plain.face, plain.prompt, plain.timesteps)
        if not self.folded:
            run = replace(run, face=_unfolded(dit, plain))  # type: ignore[arg-type]
        heard = SegmentConditions(audio=dit.encode_audio(plain.windows), image_latents=plain.image_latents)
        return GUIDANCE_PASSES[self.passes](dit, run, heard)


def _unfolded(dit: Hallo3Transformer, plain: Baseline) -> Any:
    tokens, blocks = dit.face_proj(plain.face), list(dit.transformer_blocks)
    return LazyParameters(lambda index: blocks[index].face_kv(tokens), len(blocks))  # type: ignore[operator]


SAVINGS = {
    "prepared": Saving(PLAIN, False, "batched"),
    "face folded": Saving(PLAIN, True, "batched"),
    "kernels fused": Saving(FUSED, True, "batched"),
    "one branch at a time": Saving(FUSED, True, "sequential"),
    "layer by layer": Saving(FUSED, True, "layer-major"),
}
"""Each with those before it. Prepared: reference, face and audio keys/values, timesteps, and no rows thrown
away."""


def _step(predict: Predict, case: Case, steps: int) -> Tensor:
    return predict(_latents(case), min(STEP, steps - 1)).double()


def _trajectory(predict: Predict, case: Case, steps: int) -> Tensor:
    start = _latents(case).float()

    def noise(index: int) -> Tensor:
        return case.tensor(f"noise {index}", *start.shape).float()

    denoise = guided_denoiser(predict, 3.5)
    return sample_dpmpp_2m_sde(denoise, start, make_schedule(steps), noise, lambda _: None).double()


def _latents(case: Case) -> Tensor:
    grid = case.config.segment.shape.latent
    return case.tensor("latents", 1, case.config.trunk.latent_channels, *grid)


def _block(case: Case) -> Case:
    """The same with one block."""
    one = replace(case.config, trunk=replace(case.config.trunk, layers=1))
    kept = {n: t for n, t in case.state.items() if not n.startswith("transformer_blocks.") or ".0." in n[:22]}
    return replace(case, config=one, state=kept)


MEASURES: dict[str, Callable[[Predict, Case, int], Tensor]] = {"step": _step, "trajectory": _trajectory}


def errors(
    case: Case, measure: str, savings: Mapping[str, Saving], steps: int = 50
) -> Iterator[tuple[str, float]]:
    """Relative error from float64 of the original's way, then of each saving: of a ``block``, a ``step`` or a
    ``trajectory`` of 50 steps."""
    if measure == "block":
        case, measure = _block(case), "step"
    run = MEASURES[measure]
    with torch.inference_mode():
        truth = run(case.baseline(torch.float64, steps), case, steps)
        plain = case.baseline(torch.bfloat16, steps)
        ways = {"original": plain, **{name: saving.predict(case, plain) for name, saving in savings.items()}}
        for name, predict in ways.items():
            yield name, float((run(predict, case, steps) - truth).norm() / truth.norm())


def compared(
    kind: str, measure: str, draws: int, savings: Mapping[str, Saving] = SAVINGS
) -> dict[str, float]:
    """Root mean square of each way's error over draws."""
    squares: dict[str, list[float]] = {}
    for draw in range(draws):
        case = Case(CONFIG, weights(CONFIG, kind, draw), draw)
        for name, error in errors(case, measure, savings):
            squares.setdefault(name, []).append(error**2)
    return {name: float(np.mean(values)) ** 0.5 for name, values in squares.items()}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kept: dict[str, Any] = {}
    print(f"{'':34} {'original':>9}", *(f"{name:>21}" for name in SAVINGS))
    for measure, draws in (("block", 6), ("step", 6), ("trajectory", 4)):
        for kind in KINDS:
            found = compared(kind, measure, draws)
            own = found["original"]
            ratios = {name: found[name] / own for name in SAVINGS}
            kept[f"{measure}, {kind}"] = {"original": own, **ratios}
            print(f"{measure + ', ' + kind:34} {own:9.5f}", *(f"{ratio:21.3f}" for ratio in ratios.values()))
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
