"""Drawn people that no training has seen, pictures without people, and how well faces are found."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from hallo3.face.detector import find_faces
from hallo3.geometry import PixelBox
from hallo3.noise import make_generator
from training.drawing import Canvas
from training.faces import Place, Pose, locate_head, make_person
from training.grounds import GROUNDS, WEATHERS, Ground, draw_ground
from training.motion import make_poses, make_random_mouth
from training.pictures import LIGHTS, Cast, Look, draw_direction, draw_frame, make_cast
from training.things import THINGS, Holder, draw_thing

HEIGHTS = (64, 80, 96, 128, 160, 200, 256, 320, 400, 512, 700, 1024)
FOUND_OVERLAP = 0.6
"""Intersection over union of a face that was found."""


class Truth(NamedTuple):
    box: PixelBox
    yaw: float
    pitch: float


class Scene(NamedTuple):
    """A picture [3, h, w] in 0..1 and the heads in it."""

    picture: Tensor
    heads: list[Truth]


class Counts(NamedTuple):
    """Of several scenes: those in which all heads were found, those with more faces than heads, and errors of
    the faces found: intersection over union, yaw and pitch in degrees."""

    scenes: int
    all_found: int
    too_many: int
    overlaps: list[float]
    yaw: list[float]
    pitch: list[float]


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def draw_scene(name: str, people: int, height: int | None = None) -> Scene:
    """One or two people as the built-in model's videos show them, a third of the pictures as JPEG."""
    r = make_generator(f"unseen scene|{name}")
    bars = people == 1 and r.random() < 0.1
    cast = _make_cast(r, name, people, bars)
    weather = list(WEATHERS)[r.integers(len(WEATHERS))] if r.random() < 0.3 else ""
    things = tuple(kind for kind in THINGS if r.random() < 0.2)
    light = list(LIGHTS)[r.integers(len(LIGHTS))] if r.random() < 0.25 else None
    look = Look(Ground(list(GROUNDS)[r.integers(len(GROUNDS))], name, weather), things, light, bars)
    poses: list[Pose] = []
    for index, each in enumerate(cast.names):
        opening, wide = (path.tolist() for path in make_random_mouth(each, 6))
        poses.append(make_poses(each, opening, wide, draw_direction(r, cast, index))[5])
    height = height or HEIGHTS[r.integers(len(HEIGHTS))]
    width = round(1.5 * height)
    pixels = draw_frame(look, cast, poses, float(r.uniform(0, 1000)), height, width)
    if r.random() < 0.3:
        pixels = compress(pixels, int(r.integers(50, 96)))
    heads: list[Truth] = []
    for who, pose, place in zip(cast.names, poses, cast.places, strict=True):
        edges = locate_head(make_person(who), pose, place)
        box = PixelBox(*(edge * height for edge in edges)).intersect(PixelBox(0, 0, width, height))
        heads.append(Truth(box, math.degrees(pose.yaw), math.degrees(pose.pitch)))
    return Scene(to_tensor(pixels), heads)


def _make_cast(r: np.random.Generator, name: str, people: int, bars: bool) -> Cast:
    while True:
        cast = make_cast(r, f"unseen|{name}", bars)
        if len(cast.names) == people:
            return cast


def compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """As JPEG."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


def draw_empty(name: str) -> Tensor:
    """A picture [3, h, w] without people: a place with what flies and rolls in it, a house front, shapes, a
    gradient, one colour, or noise."""
    r = make_generator(f"empty|{name}")
    height = HEIGHTS[r.integers(len(HEIGHTS) - 2)]
    width = round(height * float(np.exp(r.uniform(-0.7, 0.9))))
    kind = r.integers(8)
    if kind < 3:
        canvas, weather = Canvas(height, width), ("", *WEATHERS)[r.integers(1 + len(WEATHERS))]
        kinds = list(GROUNDS)
        draw_ground(canvas, Ground(kinds[r.integers(len(kinds))], name, weather), float(r.uniform(0, 1000)))
        for thing in ("balloon", "bird", "ball"):
            if r.random() < 0.5:
                draw_thing(canvas, thing, name, Holder(make_person(name), Place()), float(r.uniform(0, 1000)))
        return to_tensor(canvas.reduce())
    if kind == 3:
        cells = int(r.integers(2, 100))
        noise = r.integers(0, 256, (cells, cells, 3), np.uint8)
        return to_tensor(np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)))
    if kind == 4:
        one, other = r.random((2, 3, 1, 1), np.float32)
        share = np.linspace(0, 1, height, dtype=np.float32)[None, :, None]
        gradient = (one * (1 - share) + other * share).repeat(width, axis=2)
        return torch.from_numpy(gradient)
    image = Image.new("RGB", (width, height), _draw_colour(r))
    draw = ImageDraw.Draw(image)
    if kind == 5:
        _draw_house(draw, r, width, height)
    elif kind == 6:
        for _ in range(int(r.integers(1, 12))):
            _draw_shape(draw, r, width, height)
    return to_tensor(np.asarray(image))


def _draw_colour(r: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in r.integers(0, 256, 3))
    return red, green, blue


def _draw_house(draw: ImageDraw.ImageDraw, r: np.random.Generator, width: int, height: int) -> None:
    """Windows in rows, and a door."""
    colour, columns, rows = _draw_colour(r), int(r.integers(2, 6)), int(r.integers(1, 6))
    for column in range(columns):
        for row in range(rows):
            x, y = (column + 0.3) / columns * width, (row + 0.2) / rows * height
            draw.rectangle((x, y, x + 0.4 * width / columns, y + 0.5 * height / rows), colour)
    draw.rectangle((0.42 * width, 0.76 * height, 0.58 * width, height), _draw_colour(r))


def _draw_shape(draw: ImageDraw.ImageDraw, r: np.random.Generator, width: int, height: int) -> None:
    x, y = r.uniform(0, width), r.uniform(0, height)
    wide, tall = r.uniform(0.03, 0.5, 2) * min(width, height)
    edges = (x - wide, y - tall, x + wide, y + tall)
    match int(r.integers(4)):
        case 0:
            draw.ellipse(edges, _draw_colour(r))
        case 1:
            draw.rectangle(edges, _draw_colour(r))
        case 2:
            draw.polygon([(x, y - tall), (x + wide, y + tall), (x - wide, y + tall)], _draw_colour(r))
        case _:
            draw.line(edges, _draw_colour(r), width=max(1, height // 40))


def count_found(scenes: Iterable[Scene]) -> Counts:
    total = found = extra = 0
    overlaps: list[float] = []
    yaw: list[float] = []
    pitch: list[float] = []
    for scene in scenes:
        faces, here = find_faces(scene.picture), 0
        for head in scene.heads:
            best = max(faces, key=lambda face: face.box.overlap(head.box), default=None)
            if best is not None and best.box.overlap(head.box) >= FOUND_OVERLAP:
                here += 1
                overlaps.append(best.box.overlap(head.box))
                yaw.append(abs(best.yaw - head.yaw))
                pitch.append(abs(best.pitch - head.pitch))
        total, found = total + 1, found + (here == len(scene.heads))
        extra += len(faces) > len(scene.heads)
    return Counts(total, found, extra, overlaps, yaw, pitch)
