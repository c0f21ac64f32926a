"""``python -m training.classifiers``: fit the classifiers of ``behaviour.contents`` on drawn videos, write
``behaviour/classifiers.json``, and tell their accuracy on other drawn videos."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from behaviour.contents import (
    COEFFICIENTS,
    GROUNDS,
    SIGNATURES,
    WEATHERS,
    Classifier,
    describe_ground,
    describe_thing,
    describe_weather,
    expand,
    find_still,
    measure_light,
    remove_light,
)
from hallo3.noise import make_generator

from .grounds import Ground
from .motion import make_poses, make_random_mouth
from .pictures import LIGHTS, Look, draw_clip, draw_direction, draw_frame, make_cast
from .testset import find_heads, to_tensor

FITTED, TESTED, FRAMES, HEIGHT, WIDTH = 600, 150, 12, 96, 144
BLURS, NOISE, PENALTY = (0.0, 0.5, 0.9), 0.04, 0.02
"""Blurs in pixels and the largest noise of the drawn videos, as a model's have them; the weights' penalty."""


class Sample(NamedTuple):
    ground: str
    weather: str
    things: tuple[str, ...]
    light: str
    found_light: str
    features: dict[str, NDArray[np.float64]]


def draw_any_look(r: np.random.Generator, name: str) -> Look:
    """Any ground, weather and things."""
    weather = WEATHERS[r.choice(len(WEATHERS), p=(0.5, 0.25, 0.25))]
    things = tuple(kind for kind in SIGNATURES if r.random() < 0.25)
    return Look(Ground(GROUNDS[r.integers(len(GROUNDS))], name, weather), things)


def draw_sample(name: str) -> Sample:
    """Somebody in front of anything, in another light than in the portrait, and its features."""
    r = make_generator(f"classifiers|{name}")
    cast, look = make_cast(r, name, False), draw_any_look(r, name)
    light = list(LIGHTS)[r.integers(len(LIGHTS))] if r.random() < 0.4 else ""
    directions = [draw_direction(r, cast, index) for index in range(len(cast.names))]
    paths = [
        make_poses(each, *make_random_mouth(each, FRAMES), direction)
        for each, direction in zip(cast.names, directions, strict=True)
    ]
    start = float(r.uniform(0, 1500))
    frames = to_tensor(draw_clip(look._replace(light=light or None), cast, paths, start, HEIGHT, WIDTH))
    frames = degrade(frames, r)
    first = [path[0] for path in paths]
    portrait = to_tensor(draw_frame(look, cast, first, 0.0, HEIGHT, WIDTH)[None])[0]
    heads = find_heads(cast, first)
    still = find_still(frames)
    found = measure_light(still, portrait, heads)
    plain, still = remove_light(frames, found), remove_light(still, found)
    features = {
        "ground": describe_ground(plain, still, heads),
        "weather": describe_weather(plain, still, heads),
    }
    features |= {kind: describe_thing(plain, heads, kind) for kind in SIGNATURES}
    return Sample(look.ground.kind, look.ground.weather, look.things, light, found, features)


def degrade(frames: torch.Tensor, r: np.random.Generator) -> torch.Tensor:
    """As sharp as a model's frames [F, 3, H, W] may be."""
    blur = BLURS[r.integers(len(BLURS))]
    if blur:
        kernel = torch.exp(-torch.arange(-3.0, 4.0).square() / (2 * blur**2))
        kernel = (kernel[:, None] * kernel / kernel.sum() ** 2)[None, None].expand(3, 1, 7, 7)
        frames = F.conv2d(F.pad(frames, (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    noise = torch.from_numpy(r.random(tuple(frames.shape), dtype=np.float32) - 0.5)
    return (frames + NOISE * r.random() * noise).clamp(0, 1)


def fit(features: NDArray[np.float64], labels: Sequence[str], classes: Sequence[str]) -> Classifier:
    """Multinomial logistic regression with a penalty on squared weights."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
    rows = torch.from_numpy(expand(features, mean, scale))
    target = torch.tensor([classes.index(label) for label in labels])
    weights = torch.zeros(len(classes), rows.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(rows @ weights.T, target) + PENALTY / 2 * weights[:, :-1].square().sum() / 10
        loss.backward()
        return loss

    optimizer.step(closure)
    return Classifier(tuple(classes), mean, scale, weights.detach().numpy())


def fit_all(fitted: Sequence[Sample], tested: Sequence[Sample]) -> dict[str, object]:
    classifiers: dict[str, object] = {}
    accuracies: dict[str, dict[str, float]] = {}
    tasks = {"ground": GROUNDS, "weather": WEATHERS, **{kind: ("", kind) for kind in SIGNATURES}}
    for task, classes in tasks.items():
        labels = [_label(sample, task) for sample in fitted]
        classifier = fit(np.stack([sample.features[task] for sample in fitted]), labels, classes)
        rows = np.stack([sample.features[task] for sample in tested])
        found = [classes[index] for index in classifier.score(rows).argmax(axis=1)]
        classifiers[task] = classifier.to_dict()
        accuracies[task] = _rate([_label(sample, task) for sample in tested], found)
    accuracies["light"] = _rate([each.light for each in tested], [each.found_light for each in tested])
    return {"classifiers": classifiers, "accuracy": accuracies, "fitted": len(fitted), "tested": len(tested)}


def _label(sample: Sample, task: str) -> str:
    if task in SIGNATURES:
        return task if task in sample.things else ""
    return sample.ground if task == "ground" else sample.weather


def _rate(true: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """The share that is right, and by chance: of the most frequent answer."""
    right = sum(one == other for one, other in zip(true, found, strict=True))
    most = Counter(true).most_common(1)[0][1]
    return {"right": round(right / len(true), 3), "chance": round(most / len(true), 3)}


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    fitted = [draw_sample(f"fitted|{index}") for index in range(FITTED)]
    tested = [draw_sample(f"tested|{index}") for index in range(TESTED)]
    result = fit_all(fitted, tested)
    COEFFICIENTS.write_text(json.dumps(result) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result["accuracy"], indent=1) + "\n")


if __name__ == "__main__":
    main()
