"""Pictures of a training run: its curves, and held-out portraits above their videos."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from behaviour.cases import read_cases, singles
from behaviour.sheets import make_sheet
from behaviour.suite import render_case
from hallo3.loading import load_models
from hallo3.quantization import PRECISIONS

WIDTH, HEIGHT, MARGIN = 560, 240, 36
INK, PAPER = (40, 60, 90), (255, 255, 255)


def plot_curves(folder: Path, names: list[str]) -> Image.Image:
    """Every column of every stage's curve against steps, logarithmic where all values are positive."""
    plots: list[Image.Image] = []
    for path in (folder / f"{name}.csv" for name in names):
        if not path.exists():
            continue
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        steps = f"{rows[-1]['step']} steps, {rows[-1]['cpu_seconds']} CPU-s"
        for key in (key for key in rows[0] if key not in {"step", "cpu_seconds"}):
            points = np.array([(float(row["step"]), float(row[key])) for row in rows])
            plots.append(_plot(f"{path.stem}: {key} ({steps})", points))
    sheet = Image.new("RGB", (2 * WIDTH, -(-len(plots) // 2) * HEIGHT), PAPER)
    for index, plot in enumerate(plots):
        sheet.paste(plot, (index % 2 * WIDTH, index // 2 * HEIGHT))
    return sheet


def _plot(title: str, points: NDArray[np.float64]) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    steps, values = points.T
    logarithmic = bool(values.min() > 0)
    heights = np.log10(values) if logarithmic else values
    span = max(float(np.ptp(heights)), 1e-9)
    x = MARGIN + (WIDTH - 2 * MARGIN) * steps / steps[-1]
    y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (heights - heights.min()) / span
    draw.rectangle((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN), outline=(210, 214, 220))
    draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=INK, width=2)
    scale = "log" if logarithmic else "linear"
    draw.text((MARGIN, 10), f"{title}, {scale}: {values.min():.4g} to {values.max():.4g}", fill=(0, 0, 0))
    draw.text((MARGIN, HEIGHT - 24), f"last {values[-1]:.4g}", fill=(0, 0, 0))
    return image


def render_people(model: Path, cases: Path, count: int = 6) -> Image.Image:
    """Held-out portraits and a model's videos of them."""
    models = load_models(model, torch.device("cpu"), PRECISIONS["fp32"])
    known = singles(read_cases(cases, models.config.segment))[:count]
    return make_sheet([(case, render_case(case, models)) for case in known])
