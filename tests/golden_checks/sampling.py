"""The schedule and whole trajectories, with a closed-form network and with the tiny network."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from hallo3.model.guidance import batched_branches
from hallo3.sampling.samplers import guided_denoiser, sample_dpmpp_2m_sde, solver_coefficients
from hallo3.sampling.schedule import Schedule, Step, denoiser_table, make_schedule

from . import networks
from .directory import TRAJECTORY, Check, Golden, Report, swap
from .forwards import Trace, prepared

MULTIPLIERS = {"mult1": "keep", "mult2": "move", "mult3": "this", "mult4": "last", "mult_noise": "noise"}
Predict = Callable[[Tensor, int], Tensor]
ALPHA, MULTIPLIER = 2 * 2.0**-24, 2e-5
"""Two ulps below 1, and a relative error: the original computes with torch's float32 square roots and
logarithms, which differ by this much between processors (facts 17). Timesteps and indices are exact."""


def find_table_indices(steps: tuple[Step, ...]) -> Tensor:
    """Index of each step's alpha in the table."""
    values = torch.tensor([step.table_alpha for step in steps])
    return (denoiser_table()[None] == values[:, None]).int().argmax(dim=1)


def schedules(golden: Golden, report: Report) -> None:
    """Alphas, timesteps, table entries and step multipliers for every recorded step count."""
    report.check("denoiser_table", denoiser_table(), ALPHA)
    for count in map(int, golden.names("timesteps_")):
        steps = make_schedule(count).steps
        columns = {
            "timesteps": torch.tensor([step.timestep for step in steps]),
            "sqrt_alpha": torch.tensor([step.alpha for step in steps] + [1.0]),
            "denoiser_idx": find_table_indices(steps),
            "denoiser_sqrt_alpha": torch.tensor([step.table_alpha for step in steps]),
        }
        for name, found in columns.items():
            if golden.has(f"{name}_{count}"):
                report.check(f"{name}_{count}", found, ALPHA if "alpha" in name else 0.0)
        used = solver_coefficients(make_schedule(count))
        for name, field in MULTIPLIERS.items():
            if golden.has(f"{name}_{count}"):
                expected = golden[f"{name}_{count}"]
                found = torch.tensor([getattr(step, field) for step in used])
                live = expected.isfinite() & (torch.arange(count) < count - 1)
                found, expected = (side[live] / expected[live].abs() for side in (found, expected))
                report.close(f"{name}_{count} (relative)", found, expected, MULTIPLIER)


def toy_trajectory(golden: Golden, report: Report) -> None:
    """Sampler, guidance and denoiser around the closed-form network that the golden describes."""
    plan = make_schedule(len(golden.names("net_t_")))
    concat, text, audio = (golden[f"in.{name}"] for name in ("concat", "text", "audio"))
    texts = torch.cat((torch.zeros_like(text), text))
    audios = torch.cat((torch.zeros_like(audio), audio))

    def predict(latents: Tensor, step: int) -> Tensor:
        both = torch.cat((latents, swap(concat)), dim=1).expand(2, -1, -1, -1, -1)
        velocity = torch.einsum("oc,bcthw->bothw", golden["toy.W"], both)
        time = torch.sin(torch.tensor(float(plan.steps[step].timestep)) / 300)
        own = 0.2 * audios.flatten(1).mean(dim=1) + 0.05 * texts.flatten(1).mean(dim=1)
        return velocity + 0.3 * time + 0.1 * texts.mean() + own.view(2, 1, 1, 1, 1)

    _trajectory(golden, plan, predict, report)


def dit_trajectory(golden: Golden, report: Report) -> None:
    """The tiny network from start noise to latents."""
    source = re.search(r"(\w+)\.safetensors", str(golden.about.get("inputs")))
    base = golden.other(source[1] if source else "dit_forward_b1")
    config, plan = networks.config_of(golden.about), make_schedule(len(golden.names("net_t_")))
    dit, _, segment, _ = prepared(base, config, Trace())
    banks = [base[f"in.bank_{index}"] for index in range(config.trunk.layers)]
    run = dit.prepare(banks, base["in.face_emb"], plan.timesteps)
    _trajectory(golden, plan, batched_branches(dit, run, segment), report)


def _trajectory(golden: Golden, plan: Schedule, predict: Predict, report: Report) -> None:
    states: list[Tensor] = []

    def recorded(latents: Tensor, step: int) -> Tensor:
        states.append(latents)
        velocity = predict(latents, step)
        if golden.has(f"net_out_{step}"):
            report.check(f"net_out_{step}", swap(velocity), TRAJECTORY)
        return velocity

    guided = guided_denoiser(recorded, golden.guidance)

    def denoise(latents: Tensor, step: Step) -> Tensor:
        denoised = guided(latents, step)
        if golden.has(f"x0_cfg_{step.index}"):
            report.check(f"x0_cfg_{step.index}", swap(denoised), TRAJECTORY)
        return denoised

    start, noise = swap(golden["in.x_init"]), lambda step: swap(golden[f"noise_used_{step}"])
    final = sample_dpmpp_2m_sde(denoise, start, plan, noise, lambda _: None)
    for index, state in enumerate([*states[1:], final]):
        if golden.has(f"x_after_{index}"):
            report.check(f"x_after_{index}", swap(state), TRAJECTORY)
        timestep = torch.tensor([float(plan.steps[index].timestep)] * 2)
        report.check(f"net_t_{index}", timestep, 0.0)
    report.check("out.final", swap(final), TRAJECTORY)


CHECKS = (
    Check(lambda g: g.has("denoiser_table"), schedules),
    Check(lambda g: g.has("toy.W", "in.x_init"), toy_trajectory),
    Check(lambda g: g.has("in.x_init", "out.final") and not g.has("toy.W"), dit_trajectory),
)
