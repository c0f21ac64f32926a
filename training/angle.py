"""``python -m training.angle``: fit the estimate of ``behaviour.angle`` on drawn people, write
``behaviour/angle.json``, and tell its error on others."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from behaviour.angle import describe_head, evaluate, write_coefficients
from behaviour.pixels import Region, measure_skin
from hallo3.noise import make_generator

from .classifiers import degrade, draw_any_look
from .faces import Pose, locate_head, make_person
from .motion import make_poses
from .pictures import draw_frame, make_cast
from .testset import to_tensor

FITTED, TESTED, HEIGHT, WIDTH = 3500, 400, 96, 144
HIDDEN, EPOCHS, BATCH, RATE, DECAY, MAP_NOISE = 24, 60, 64, 3e-3, 0.1, 0.08
WIDEST, STEEPEST = 1.15, 0.45
"""Radians; people in videos sway around 60 and 24 degrees at most."""


def draw_heads(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Maps [N, 4, GRID, GRID] of heads that have moved since the portrait was drawn, and their angles [N,
    2]."""
    maps: list[Tensor] = []
    angles: list[tuple[float, float]] = []
    for index in range(count):
        r = make_generator(f"angle|{name}|{index}")
        cast = make_cast(r, f"angle|{name}|{index}", False)
        look = draw_any_look(r, f"{name}|{index}")
        references, moved = list[Pose](), list[Pose]()
        for each in cast.names:
            direction = (float(r.uniform(-WIDEST, WIDEST)), float(r.uniform(-STEEPEST, STEEPEST)))
            opening = [float(r.random()) if r.random() < 0.6 else 0.0] * 200
            poses = make_poses(each, opening, [float(r.random())] * 200, direction)
            references.append(poses[0])
            moved.append(poses[int(r.integers(len(poses)))])
        portrait = to_tensor(draw_frame(look, cast, references, 0.0, HEIGHT, WIDTH)[None])[0]
        frame = to_tensor(draw_frame(look, cast, moved, float(r.uniform(0, 500)), HEIGHT, WIDTH)[None])
        frame = degrade(frame, r)
        for each, reference, pose, place in zip(cast.names, references, moved, cast.places, strict=True):
            box = Region(*locate_head(make_person(each), reference, place))
            maps.append(describe_head(frame, measure_skin(portrait, box), box)[0])
            angles.append((pose.yaw, pose.pitch))
    return torch.stack(maps), torch.tensor(angles)


def fit(maps: Tensor, angles: Tensor) -> list[Tensor]:
    """Weights and biases of two layers, fitted on heads and their mirror images."""
    torch.manual_seed(0)
    rows = torch.cat((maps, maps.flip(-1))).flatten(1)
    target = torch.cat((angles, angles * torch.tensor((-1.0, 1.0))))
    mean = rows.mean(dim=0)
    network = nn.Sequential(nn.Linear(rows.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2))
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - epoch / EPOCHS)
        for chosen in torch.randperm(len(rows)).split(BATCH):
            noisy = rows[chosen] - mean + MAP_NOISE * torch.randn(len(chosen), rows.shape[1])
            loss = F.mse_loss(network(noisy), target[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    hidden, bias, out, out_bias = (each.detach() for each in network.parameters())
    return [hidden, bias - hidden @ mean, out, out_bias]


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    layers = fit(*draw_heads("fitted", FITTED))
    maps, angles = draw_heads("tested", TESTED)
    write_coefficients(layers, {})
    found = (evaluate(maps) + evaluate(maps.flip(-1)) * torch.tensor((-1.0, 1.0))) / 2
    errors = np.degrees((found - angles).abs().numpy())
    mean = np.degrees(angles.abs().numpy()).mean(axis=0)
    figures = {
        "yaw": round(float(errors[:, 0].mean()), 2),
        "pitch": round(float(errors[:, 1].mean()), 2),
        "yaw of nine in ten": round(float(np.quantile(errors[:, 0], 0.9)), 2),
        "yaw if straight ahead is said": round(float(mean[0]), 2),
        "pitch if straight ahead is said": round(float(mean[1]), 2),
    }
    write_coefficients(layers, figures)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
