"""Errors of computation: exact savings against float64, and precisions against float32.

``exactness``: the same weights in float64 are the truth. ``original`` is the original's way in bfloat16; each
saving is ours in bfloat16 with that saving on top of those before it, relative to the original's error.
Rounding is luck in a single case, so errors are root mean squares over draws. Weights are Gaussian,
heavy-tailed (Student's t, 3 degrees of freedom), or have a few large output channels.

``precision``: one forward pass of the built-in model's transformer on the features of its first sample, at a
timestep in the middle of the schedule.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks import OriginalStep
from benchmarks.report import CPU, ROOT, Result, Scenario, format_table
from hallo3.built_in import FOLDER
from hallo3.config import TINY, Hallo3Config
from hallo3.face.registry import analyze_portrait
from hallo3.identity import frame_portrait
from hallo3.loading import load_models
from hallo3.media.audio import read_recording
from hallo3.media.image import read_picture
from hallo3.model.guidance import GUIDANCE_PASSES, Predict
from hallo3.model.kernels.eager import PLAIN, Kernels
from hallo3.model.kernels.fused import FUSED
from hallo3.model.layers import Layers, LazyParameters
from hallo3.model.transformer import Hallo3Transformer, SegmentConditions
from hallo3.noise import make_generator, make_noise
from hallo3.pipeline import encode_speech, extract_identity
from hallo3.quantization import PRECISIONS
from hallo3.sampling.samplers import guided_denoiser, sample_dpmpp_2m_sde
from hallo3.sampling.schedule import make_schedule
from hallo3.settings import settings_for

CONFIG = replace(
    TINY,
    trunk=replace(TINY.trunk, layers=3, heads=2, head_dim=64, text_tokens=16),
    segment=replace(TINY.segment, frames=17, height=48, width=64),
)
"""Heads as wide as the released model's; few tokens."""
KINDS = ("gaussian", "heavy-tailed", "outlier channels")
MAX_RATIO = 1.05
STEPS, STEP = 50, 12
"""Of a trajectory; the one for errors of one step and one block."""


def draw_weights(config: Hallo3Config, kind: str, draw: int) -> dict[str, Tensor]:
    """The transformer's state in float64, values of a kind, as bfloat16 holds them."""
    shapes = Hallo3Transformer(config, Layers(device="meta")).state_dict()
    return {name: _values(tensor, name, kind, draw).bfloat16().double() for name, tensor in shapes.items()}


def _values(tensor: Tensor, name: str, kind: str, draw: int) -> Tensor:
    source, shape = make_generator(f"{kind}|{draw}|{name}"), tuple(tensor.shape)
    if tensor.ndim == 1:
        middle = float("norm" in name and "weight" in name)
        return torch.from_numpy(source.standard_normal(shape)) * 0.1 + middle
    heavy = kind == "heavy-tailed"
    values = source.standard_t(3, shape) / 3**0.5 if heavy else source.standard_normal(shape)
    values = torch.from_numpy(values) / np.prod(shape[1:]) ** 0.5
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
        values = make_generator(f"exactness|{self.draw}|{name}").standard_normal(shape)
        return torch.from_numpy(values).bfloat16().double()

    def network(self, dtype: torch.dtype, kernels: Kernels = PLAIN) -> Hallo3Transformer:
        dit = Hallo3Transformer(self.config, Layers(device="meta", kernels=kernels))
        dit.load_state_dict({name: value.to(dtype) for name, value in self.state.items()}, assign=True)
        return dit.requires_grad_(False)

    def original(self, dtype: torch.dtype) -> OriginalStep:
        trunk, dit = self.config.trunk, self.network(dtype)
        grid, feature = dit.latent, (1, dit.latent.tokens_per_frame, trunk.width)
        return OriginalStep(
            dit=dit,
            features=[self.tensor(f"feature {i}", *feature).to(dtype) for i in range(trunk.layers)],
            face=self.tensor("face", 1, self.config.face.embedding_dim).to(dtype),
            prompt=self.tensor("prompt", 1, trunk.text_tokens, trunk.text_dim).to(dtype),
            windows=self.tensor("windows", 1, *dit.window_shape).to(dtype),
            image_latents=self.tensor("image", 1, trunk.latent_channels, *grid).to(dtype),
            timesteps=make_schedule(STEPS).timesteps,
        )


class Saving(NamedTuple):
    """A way to take a step: whose kernels, whether the face is folded, and how the branches are computed."""

    kernels: Kernels
    folded: bool
    passes: str

    def predict(self, case: Case, plain: OriginalStep) -> Predict:
        """The step in bfloat16."""
        dit = case.network(torch.bfloat16, self.kernels)
        run = dit.prepare(plain.features, plain.face, plain.timesteps)
        if not self.folded:
            run = replace(run, face=_unfolded(dit, plain))  # type: ignore[arg-type]
        text, audio = dit.encode_text(plain.prompt), dit.encode_audio(plain.windows)
        segment = SegmentConditions(text=text, audio=audio, image_latents=plain.image_latents)
        return GUIDANCE_PASSES[self.passes](dit, run, segment)


def _unfolded(dit: Hallo3Transformer, plain: OriginalStep) -> Any:
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


def _step(predict: Predict, case: Case) -> Tensor:
    return predict(_latents(case), STEP).double()


def _trajectory(predict: Predict, case: Case) -> Tensor:
    start = _latents(case).float()

    def noise(index: int) -> Tensor:
        return case.tensor(f"noise {index}", *start.shape).float()

    denoise = guided_denoiser(predict, 3.5)
    return sample_dpmpp_2m_sde(denoise, start, make_schedule(STEPS), noise, lambda _: None).double()


def _latents(case: Case) -> Tensor:
    grid = case.config.segment.shape.latent
    return case.tensor("latents", 1, case.config.trunk.latent_channels, *grid)


def _block(case: Case) -> Case:
    """The same with one block."""
    one = replace(case.config, trunk=replace(case.config.trunk, layers=1))
    names = [n for n in case.state if not n.startswith("transformer_blocks.") or ".0." in n[:22]]
    return replace(case, config=one, state={name: case.state[name] for name in names})


@torch.inference_mode()
def measure_errors(
    kind: str, measure: str, draws: int, savings: Mapping[str, Saving] = SAVINGS
) -> dict[str, float]:
    """Relative error from float64 of the original's way, then of each saving: of a ``block``, a ``step`` or a
    ``trajectory`` of 50 steps; root mean squares over draws."""
    squares, run = dict[str, list[float]](), _trajectory if measure == "trajectory" else _step
    for draw in range(draws):
        case = Case(CONFIG, draw_weights(CONFIG, kind, draw), draw)
        case = _block(case) if measure == "block" else case
        truth, plain = run(case.original(torch.float64), case), case.original(torch.bfloat16)
        ways = {"original": plain, **{name: saving.predict(case, plain) for name, saving in savings.items()}}
        for name, predict in ways.items():
            error = float((run(predict, case) - truth).norm() / truth.norm())
            squares.setdefault(name, []).append(error**2)
    return {name: float(np.mean(values)) ** 0.5 for name, values in squares.items()}


TIMESTEP = 500
ModelInputs = dict[str, Tensor | tuple[Tensor, ...]]


@torch.inference_mode()
def velocity(name: str, inputs: ModelInputs) -> Tensor:
    """The velocity of one forward in a precision, as float32."""
    dtype = PRECISIONS[name].compute
    cast = {key: value.to(dtype) for key, value in inputs.items() if isinstance(value, Tensor)}
    with load_models(FOLDER, CPU, name).transformer as network:
        conditions = network.conditions(inputs["features"], cast["face"], cast["text"], cast["windows"])
        modulation = network.modulate(torch.tensor([TIMESTEP]), cast["latents"])
        return network(cast["latents"], cast["image"], modulation, conditions).float()


@torch.inference_mode()
def make_inputs() -> ModelInputs:
    """Of the sample portrait and speech; latents are noise."""
    models = load_models(FOLDER, CPU, "fp32")
    settings, portrait = settings_for(models.config.defaults), read_picture(ROOT / "samples" / "portrait.png")
    face = analyze_portrait(portrait, models.face, models.config.face)
    framed = frame_portrait(portrait, face, models.config.segment.shape)
    identity = extract_identity(framed, models, settings, make_noise(0))
    speech = encode_speech(read_recording(ROOT / "samples" / "speech.wav"), models)
    trunk, shape = models.config.trunk, models.config.segment.shape.latent
    generator = torch.Generator().manual_seed(0)
    size = (1, trunk.latent_channels, *shape)
    return {
        "features": identity.reference_features,
        "face": identity.face_embedding,
        "text": torch.zeros(1, trunk.text_tokens, trunk.text_dim),
        "windows": speech.segment(0),
        "latents": torch.randn(size, generator=generator),
        "image": torch.randn(size, generator=generator),
    }


def measure_exactness(_: Namespace) -> Result:
    rows: Result = {}
    for measure, draws in (("block", 6), ("step", 6), ("trajectory", 4)):
        for kind in KINDS:
            errors = measure_errors(kind, measure, draws)
            ratios = {name: errors[name] / errors["original"] for name in SAVINGS}
            rows[f"{measure}, {kind}"] = {"original": errors["original"], **ratios}
    return rows


def show(result: Result, _: Namespace) -> None:
    rows = {name: row for name, row in result.items() if isinstance(row, dict) and "original" in row}
    print(format_table(rows, "error"))


def measure_precision(_: Namespace) -> Result:
    inputs, distances = make_inputs(), dict[str, float]()
    exact = velocity("fp32", inputs)
    for name in [name for name in PRECISIONS if name != "fp32"]:
        distance = (velocity(name, inputs) - exact).norm() / exact.norm()
        distances[name] = float(f"{distance:.3g}")
    return {"relative L2 of the velocity from fp32's": distances}


EXACTNESS = Scenario(measure=measure_exactness, show=show)
PRECISION = Scenario(measure=measure_precision)
