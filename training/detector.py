"""The face detector's stage: pictures of the drawing program with and without people, of any light and size,
and the network that learns where the heads are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hallo3.face.detector import HEAD_HEIGHTS, STRIDE, DetectorNetwork, DetectorOutput
from hallo3.geometry import PixelBox
from hallo3.noise import make_generator

from .drawing import Canvas, box, draw_person, oval, shade
from .faces import (
    HAIR_COLOURS,
    SKIN_COLOURS,
    Colour,
    Pixels,
    Place,
    Pose,
    draw_colour,
    locate_head,
    make_person,
    vary,
)
from .grounds import GROUNDS, WEATHERS, Ground, draw_ground
from .motion import SWAY_PITCH, SWAY_YAW
from .optim import Optimiser, WeightAverage
from .pictures import LIGHTS, STEEPEST, WIDEST
from .stage import Run
from .things import BEHIND, THINGS, Holder, draw_thing

NAME, STEPS = "faces", 4000
PIXELS_PER_STEP = 16 * 128**2
EMPTY_SHARE, SIMPLE_SHARE, ROLLED_SHARE = 0.27, 0.12, 0.04
PORTRAIT_SHARE, LARGE_SHARE = 0.35, 0.12
SEEN_HEIGHTS = (12, 72)
"""Pixels of heads that a level may show or not; smaller and larger ones it must not."""
WHOLE_SHARE, HIDDEN_SHARE = 0.5, 0.25
"""Shares of a head in the picture: from the one on it is a face, below the other it is none."""
SPREAD = 0.09
"""Standard deviation of the heat around a head's middle, in its sides."""
TAUGHT_HEAT = 0.3
"""Where distances and angles are learned."""
BOX_WEIGHT, ANGLE_WEIGHT = 1.0, 2.0


class Head(NamedTuple):
    """A drawn head: its outline in pixels, also beyond the picture's edges; yaw and pitch in radians; whether
    enough of it is to be seen, and whether that can be doubted."""

    box: PixelBox
    yaw: float
    pitch: float
    doubtful: bool = False

    def mirror(self, width: int) -> Head:
        """In the mirror image of a picture."""
        left, top, right, bottom = self.box
        return self._replace(box=PixelBox(width - right, top, width - left, bottom), yaw=-self.yaw)


class Drawn(NamedTuple):
    """Pixels [height, width, 3] and the heads in them."""

    pixels: Pixels
    heads: list[Head]


class Targets(NamedTuple):
    """On the network's grid: ``heat`` [B, h, w] in 0..1, 1 in a head's middle; ``counted`` [B, h, w]; edges
    [B, 4, h, w] in pixels; ``angles`` [B, 2, h, w]."""

    heat: Tensor
    counted: Tensor
    edges: Tensor
    angles: Tensor


def train_detector(folder: Path, seed: int, steps: int = STEPS) -> None:
    """The averaged weights are ``Run.state("average")``."""
    network = make_network(seed)
    run = Run(folder=folder, name=NAME, steps=steps, seed=seed)
    optimiser = Optimiser(network, steps, muon=0.014, adamw=2e-3, adamw_layers=("output", "stem.0"))
    average = WeightAverage(network, 0.998)

    def step(index: int) -> dict[str, float]:
        pictures, targets = make_batch(f"{seed}|{NAME}|{index}")
        losses = compute_losses(network(pictures), targets)
        sum(losses.values(), torch.zeros(())).backward()
        norm = optimiser.step(index)
        average.update(index)
        return {"norm": norm, **{key: float(value.detach()) for key, value in losses.items()}}

    run.train(step, {"network": network, "optimiser": optimiser, "average": average})


def load_detector(folder: Path, seed: int) -> DetectorNetwork:
    network = make_network(seed)
    network.load_state_dict(Run(folder=folder, name=NAME, steps=0, seed=seed).state("average"))
    return network.eval().requires_grad_(False)


def make_network(seed: int) -> DetectorNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DetectorNetwork()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        network.output.bias.copy_(torch.tensor((-4.0, 0.8, 1.0, 0.8, 1.0, 0.0, 0.0)))
    return network.to(memory_format=torch.channels_last)


def make_batch(name: str) -> tuple[Tensor, Targets]:
    """Pictures [B, 3, h, w] in 0..1 of one size, and what the network should say of them."""
    r = make_generator(name)
    shape = np.exp(r.uniform(-0.45, 0.45))
    area = np.exp(r.uniform(np.log(48**2), np.log(176**2)))
    height, width = max(24, round((area / shape) ** 0.5)), max(24, round((area * shape) ** 0.5))
    count = int(np.clip(PIXELS_PER_STEP / (height * width), 6, 64)) // 2
    drawn = [each for row in range(count) for each in draw_examples(f"{name}|{row}", height, width)]
    pixels = torch.from_numpy(np.stack([each.pixels for each in drawn])).permute(0, 3, 1, 2)
    pictures = pixels.float().div(255).contiguous(memory_format=torch.channels_last)
    return pictures, make_targets([each.heads for each in drawn], height, width)


def make_targets(heads: list[list[Head]], height: int, width: int) -> Targets:
    rows, columns = -(-height // STRIDE), -(-width // STRIDE)
    x, y = (np.arange(columns) + 0.5) * STRIDE, (np.arange(rows)[:, None] + 0.5) * STRIDE
    shape = (len(heads), rows, columns)
    heat, counted = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    edges, angles = (
        np.zeros((len(heads), 4, rows, columns), np.float32),
        np.zeros((len(heads), 2, rows, columns), np.float32),
    )
    picture = PixelBox(0, 0, width, height)
    for row, each in enumerate(heads):
        for head in each:
            seen, tall = head.box.intersect(picture), head.box.bottom - head.box.top
            share = seen.area / head.box.area
            if share < HIDDEN_SHARE or not SEEN_HEIGHTS[0] <= tall <= SEEN_HEIGHTS[1]:
                continue
            if share < WHOLE_SHARE or head.doubtful or not HEAD_HEIGHTS[0] <= tall <= HEAD_HEIGHTS[1]:
                inside = (x > seen.left) & (x < seen.right) & (y > seen.top) & (y < seen.bottom)
                counted[row][inside] = 0
                continue
            middle = (seen.left + seen.right) / 2, (seen.top + seen.bottom) / 2
            sides = SPREAD * (seen.right - seen.left), SPREAD * (seen.bottom - seen.top)
            around = np.exp(
                -((x - middle[0]) ** 2) / 2 / sides[0] ** 2 - (y - middle[1]) ** 2 / 2 / sides[1] ** 2
            )
            around = (around / around.max()).astype(np.float32)
            around[around == around.max()] = 1
            nearer = around > heat[row]
            heat[row] = np.maximum(heat[row], around)
            edges[row][:, nearer] = np.array(seen, np.float32)[:, None]
            angles[row][:, nearer] = np.array((head.yaw, head.pitch), np.float32)[:, None]
    counted[heat == 1] = 1
    return Targets(*(torch.from_numpy(each) for each in (heat, counted, edges, angles)))


def compute_losses(output: DetectorOutput, targets: Targets) -> dict[str, Tensor]:
    """Of heat (the focal loss of CenterNet), boxes and angles."""
    middles = targets.heat == 1
    count = middles.sum().clamp_min(1)
    hot, cold = F.logsigmoid(output.heat), F.logsigmoid(-output.heat)
    probability = output.heat.sigmoid()
    positive = (1 - probability) ** 2 * hot
    negative = (1 - targets.heat) ** 4 * probability**2 * cold * targets.counted
    heat = -torch.where(middles, positive, negative).sum() / count
    taught = torch.where(targets.heat > TAUGHT_HEAT, targets.heat, 0)
    weight = taught / taught.sum().clamp_min(1e-6)
    rows, columns = output.heat.shape[1:]
    x = (torch.arange(columns) + 0.5) * STRIDE
    y = (torch.arange(rows)[:, None] + 0.5) * STRIDE
    left, up, right, down = output.distances.unbind(dim=1)
    found = (x - left, y - up, x + right, y + down)
    true = targets.edges.unbind(dim=1)
    shared = (torch.minimum(found[2], true[2]) - torch.maximum(found[0], true[0])).clamp_min(0) * (
        torch.minimum(found[3], true[3]) - torch.maximum(found[1], true[1])
    ).clamp_min(0)
    area = (true[2] - true[0]) * (true[3] - true[1])
    union = area + (left + right).clamp_min(0) * (up + down).clamp_min(0) - shared
    overlap = shared / union.clamp_min(1e-3)
    side = area.clamp_min(1).sqrt()
    error = sum(((a - b).abs() for a, b in zip(found, true, strict=True)), torch.zeros(())) / side
    boxes = ((1 - overlap + error) * weight).sum()
    angles = ((output.angles - targets.angles).abs().sum(dim=1) * weight).sum()
    return {"heat": heat, "boxes": BOX_WEIGHT * boxes, "angles": ANGLE_WEIGHT * angles}


def draw_examples(name: str, height: int, width: int) -> tuple[Drawn, Drawn]:
    """A picture with people or without, as a file or a level of the pyramid may show it, and its mirror image
    in another light."""
    r = make_generator(f"face example|{name}")
    canvas = Canvas(height, width, _draw_background(r, name, height, width))
    heads: list[Head] = []
    kind, rolled = r.random(), 0
    if kind < EMPTY_SHARE:
        _draw_without_people(canvas, r, name)
    elif kind < EMPTY_SHARE + SIMPLE_SHARE:
        heads = _draw_simple_faces(canvas, r)
    else:
        heads = _draw_people(canvas, r, name)
        if kind > 1 - ROLLED_SHARE and height == width:
            rolled = int(r.integers(1, 4))
    pixels = _reduce(canvas, r)
    if rolled:
        pixels, heads = np.ascontiguousarray(np.rot90(pixels, rolled)), []
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    return (
        Drawn(_distort(pixels, r), heads),
        Drawn(_distort(mirrored, r), [head.mirror(width) for head in heads]),
    )


def _draw_background(r: np.random.Generator, name: str, height: int, width: int) -> Pixels:
    """A place at any scale, or colours, shapes and textures."""
    canvas = Canvas(height, width)
    full = canvas.pixels.shape[:2]
    if r.random() < 0.7:
        weather = list(WEATHERS)[r.integers(len(WEATHERS))] if r.random() < 0.25 else ""
        kind = list(GROUNDS)[r.integers(len(GROUNDS))]
        draw_ground(canvas, Ground(kind, name, weather), float(r.uniform(0, 1000)))
        zoom = np.exp(r.uniform(0, np.log(3))) if r.random() < 0.5 else 1.0
        rows, columns = (max(8, int(side / zoom)) for side in full)
        top, left = int(r.integers(full[0] - rows + 1)), int(r.integers(full[1] - columns + 1))
        part = canvas.pixels[top : top + rows, left : left + columns]
        return cv2.resize(part, full[::-1], interpolation=cv2.INTER_LINEAR) if zoom > 1 else canvas.pixels
    if r.random() < 0.5:
        _fill_gradient(canvas, r)
    else:
        canvas.pixels[:] = _make_texture(r, *full)
    for _ in range(int(r.integers(0, 8))):
        _draw_shape(canvas, r)
    return canvas.pixels


def _fill_gradient(canvas: Canvas, r: np.random.Generator) -> None:
    one, other = (np.float32(draw_colour(r, 0, 256)) for _ in range(2))
    rows, columns = canvas.pixels.shape[:2]
    angle = r.uniform(0, 2 * np.pi)
    share = np.cos(angle) * np.linspace(-1, 1, columns) + np.sin(angle) * np.linspace(-1, 1, rows)[:, None]
    if r.random() < 0.3:
        share = np.hypot(
            np.linspace(-1, 1, columns) - np.cos(angle), np.linspace(-1, 1, rows)[:, None] - np.sin(angle)
        )
    share = ((share - share.min()) / np.ptp(share))[..., None].astype(np.float32)
    canvas.pixels[:] = (one * (1 - share) + other * share).astype(np.uint8)


def _make_texture(r: np.random.Generator, rows: int, columns: int) -> Pixels:
    """Noise of several sizes, coloured or grey; or stripes, or squares."""
    if r.random() < 0.25:
        step = r.integers(6, 90, 2)
        one, other = (np.uint8(draw_colour(r, 0, 256)) for _ in range(2))
        odd = (
            np.arange(rows)[:, None] // step[0] * int(r.random() < 0.6) + np.arange(columns) // step[1]
        ) % 2
        return np.where(odd[..., None] == 1, one, other).astype(np.uint8)
    channels, total = (1 if r.random() < 0.3 else 3), np.zeros((rows, columns, 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        noise = r.integers(0, 256, (cells, cells, channels), np.uint8).astype(np.float32)
        noise = cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC).reshape(
            rows, columns, channels
        )
        total += noise * np.float32(cells ** -r.uniform(0.0, 1.4))
    total -= total.min()
    return (total * np.float32(255 * r.uniform(0.3, 1) / max(1e-3, float(total.max())))).astype(np.uint8)


def _draw_any_colour(r: np.random.Generator) -> Colour:
    if r.random() < 0.4:
        return vary(r, SKIN_COLOURS[r.integers(len(SKIN_COLOURS))], 12)
    return draw_colour(r, 0, 256)


def _draw_shape(canvas: Canvas, r: np.random.Generator, size: float | None = None) -> None:
    """An oval, a rectangle, a triangle, a polygon, a window front, a target or a blank head."""
    x, y = r.uniform(0, canvas.aspect), r.uniform(0, 1)
    size = size or float(np.exp(r.uniform(np.log(0.04), np.log(0.6))))
    wide, tall = size * np.exp(r.uniform(-0.5, 0.5, 2))
    colour = _draw_any_colour(r)
    match r.integers(8):
        case 0 | 1:
            canvas.fill_oval(x, y, wide / 2, tall / 2, colour)
        case 2:
            canvas.fill(box(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2), colour)
        case 3:
            corners = int(r.integers(3, 9))
            angles = np.sort(r.uniform(0, 2 * np.pi, corners))
            radius = r.uniform(0.3, 1, corners) * size / 2
            canvas.fill(np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), axis=1), colour)
        case 4:
            canvas.fill(box(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2), colour)
            other, across, down = _draw_any_colour(r), int(r.integers(1, 5)), int(r.integers(1, 5))
            for i in range(across):
                for j in range(down):
                    wx, wy = x + wide * ((i + 0.5) / across - 0.5), y + tall * ((j + 0.5) / down - 0.5)
                    canvas.fill(
                        box(
                            wx - 0.25 * wide / across,
                            wy - 0.25 * tall / down,
                            wx + 0.25 * wide / across,
                            wy + 0.25 * tall / down,
                        ),
                        other,
                    )
            if r.random() < 0.5:
                canvas.fill(
                    box(x - 0.1 * wide, y + 0.2 * tall, x + 0.1 * wide, y + 0.5 * tall), _draw_any_colour(r)
                )
        case 5:
            for share in (1, 0.7, 0.35)[: int(r.integers(2, 4))]:
                canvas.fill_oval(x, y, share * wide / 2, share * tall / 2, _draw_any_colour(r))
        case 6:
            canvas.fill_oval(
                x,
                y - 0.1 * tall,
                0.6 * wide,
                0.55 * tall,
                vary(r, HAIR_COLOURS[r.integers(len(HAIR_COLOURS))], 12),
            )
            canvas.fill_oval(
                x, y, wide / 2, tall / 2, vary(r, SKIN_COLOURS[r.integers(len(SKIN_COLOURS))], 12)
            )
            if r.random() < 0.5:
                canvas.fill_oval(
                    x + r.uniform(-0.3, 0.3) * wide,
                    y + r.uniform(-0.3, 0.3) * tall,
                    0.1 * wide,
                    0.06 * tall,
                    _draw_any_colour(r),
                )
        case _:
            ends = np.array(((x, y), (x + wide, y + r.uniform(-1, 1) * tall)))
            off = np.array((0, r.uniform(0.005, 0.03)))
            canvas.fill(np.concatenate((ends, (ends + off)[::-1])), colour)


def _draw_without_people(canvas: Canvas, r: np.random.Generator, name: str) -> None:
    place = Place(
        r.uniform(0, canvas.aspect), r.uniform(0.2, 0.8), np.exp(r.uniform(np.log(0.25), np.log(1.2)))
    )
    holder = Holder(make_person(name), place)
    for kind in THINGS:
        if r.random() < 0.25:
            draw_thing(canvas, kind, name, holder, float(r.uniform(0, 1000)))
    for _ in range(int(r.integers(0, 7)) if r.random() < 0.5 else 0):
        _draw_shape(canvas, r)


def _draw_head_height(r: np.random.Generator, canvas: Canvas) -> float:
    """In picture heights: as portraits have them, or any that the network must see, or not."""
    if r.random() < PORTRAIT_SHARE:
        tall = float(r.uniform(0.42, 0.8))
        if HEAD_HEIGHTS[0] <= tall * canvas.height <= SEEN_HEIGHTS[1]:
            return tall
    if r.random() < LARGE_SHARE:
        return float(np.exp(r.uniform(np.log(SEEN_HEIGHTS[1]), np.log(800)))) / canvas.height
    if r.random() < 0.04:
        return float(r.uniform(5, SEEN_HEIGHTS[1])) / canvas.height
    return float(np.exp(r.uniform(np.log(HEAD_HEIGHTS[0] - 1), np.log(HEAD_HEIGHTS[1] + 3)))) / canvas.height


def _draw_people(canvas: Canvas, r: np.random.Generator, name: str) -> list[Head]:
    """People anywhere: one, several or a crowd, none of them behind another for the most part."""
    wanted = int(r.choice((1, 1, 2, 2, 3, 5)))
    heads: list[Head] = []
    figures: list[tuple[str, Pose, Place]] = []
    boxes: list[PixelBox] = []
    size = _draw_head_height(r, canvas) / 0.75
    for index in range(wanted):
        if r.random() < 0.5:
            size = _draw_head_height(r, canvas) / 0.75
        x, y = r.uniform(-0.1, canvas.aspect + 0.1), r.uniform(0.0, 1.0)
        if index == 0 and wanted == 1 and r.random() < 0.6:
            x, y = canvas.aspect / 2 + r.uniform(-0.2, 0.2), r.uniform(0.4, 0.6)
        place, pose, who = Place(float(x), float(y), size), _make_pose(r), f"{name}|{index}"
        person = make_person(who)
        tall = canvas.height
        head = PixelBox(*(edge * tall for edge in locate_head(person, pose, place)))
        s = size * tall
        figure = PixelBox(
            place.x * tall - 0.52 * s, place.y * tall - 0.5 * s, place.x * tall + 0.52 * s, 2 * tall + 2 * s
        )
        if any(figure.intersect(each).area > 0.12 * each.area for each in boxes):
            continue
        boxes.append(head)
        figures.append((who, pose, place))
        heads.append(Head(head, pose.yaw, pose.pitch))
    things = [kind for kind in THINGS if r.random() < 0.12] if figures else []
    seconds = float(r.uniform(0, 1000))
    holder = Holder(make_person(figures[0][0]), figures[0][2]) if figures else None
    for kind in things:
        if kind in BEHIND and holder is not None:
            draw_thing(canvas, kind, name, holder, seconds)
    for who, pose, place in figures:
        draw_person(canvas, make_person(who), pose, place)
    before = canvas.pixels.copy() if things else None
    for kind in things:
        if kind not in BEHIND and holder is not None:
            draw_thing(canvas, kind, name, holder, seconds)
    if before is not None:
        changed = (before != canvas.pixels).any(axis=2)
        heads = [_check_covered(head, changed, canvas) for head in heads]
    return heads


def _check_covered(head: Head, changed: NDArray[np.bool_], canvas: Canvas) -> Head:
    """Doubtful if things hide a fifth of the head."""
    scale = canvas.pixels.shape[0] / canvas.height
    left, top, right, bottom = (max(0, int(edge * scale)) for edge in head.box)
    part = changed[top:bottom, left:right]
    return head._replace(doubtful=bool(part.size and part.mean() > 0.2))


def _make_pose(r: np.random.Generator) -> Pose:
    straight = r.random() < 0.3
    yaw = r.uniform(-0.2, 0.2) if straight else r.uniform(-1, 1) * (WIDEST + SWAY_YAW)
    pitch = np.clip(r.normal(0, np.radians(10)), -STEEPEST - SWAY_PITCH, STEEPEST + SWAY_PITCH)
    opened = r.random() if r.random() < 0.5 else 0.0
    closed = float(r.choice((0.0, 0.0, 0.0, 0.5, 1.0)))
    x, y = r.uniform(-0.03, 0.03, 2)
    return Pose(
        float(x),
        float(y),
        float(r.normal(0, 0.06)),
        float(yaw),
        float(pitch),
        float(opened),
        float(r.random()),
        closed,
    )


def _draw_simple_faces(canvas: Canvas, r: np.random.Generator) -> list[Head]:
    """Faces in a simpler style: an oval, two eyes, a mouth, perhaps hair, a nose, brows and an outline."""
    heads: list[Head] = []
    for _ in range(int(r.choice((1, 1, 2, 3)))):
        tall = _draw_head_height(r, canvas)
        wide = tall * float(r.uniform(0.68, 1.0))
        x, y = r.uniform(0, canvas.aspect), r.uniform(0, 1)
        if r.random() < 0.5:
            x, y = canvas.aspect / 2 + r.uniform(-0.15, 0.15), r.uniform(0.4, 0.6)
        edges = PixelBox(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)
        larger = PixelBox(x - 0.7 * wide, y - 0.7 * tall, x + 0.7 * wide, y + 0.7 * tall)
        pixels = PixelBox(*(edge * canvas.height for edge in edges))
        if any(
            PixelBox(*(edge * canvas.height for edge in larger)).intersect(head.box).area > 0
            for head in heads
        ):
            continue
        _draw_simple_face(canvas, r, edges)
        heads.append(Head(pixels, 0.0, 0.0))
    return heads


def _draw_simple_face(canvas: Canvas, r: np.random.Generator, edges: PixelBox) -> None:
    x, y = (edges.left + edges.right) / 2, (edges.top + edges.bottom) / 2
    wide, tall = edges.right - edges.left, edges.bottom - edges.top
    skin = vary(r, SKIN_COLOURS[r.integers(len(SKIN_COLOURS))], 12)
    hair, dark = vary(r, HAIR_COLOURS[r.integers(len(HAIR_COLOURS))], 12), draw_colour(r, 0, 60)
    if r.random() < 0.7:
        canvas.fill_oval(
            x,
            y - r.uniform(0.05, 0.15) * tall,
            r.uniform(0.5, 0.62) * wide,
            r.uniform(0.5, 0.58) * tall,
            hair,
        )
    if r.random() < 0.3:
        canvas.fill_oval(x, y, 0.5 * wide + 0.015 * tall, 0.515 * tall, dark)
    canvas.fill_oval(x, y, 0.5 * wide, 0.5 * tall, skin)
    if r.random() < 0.3:
        angles = np.linspace(np.pi + 0.5, 2 * np.pi - 0.5, 18)
        canvas.fill(
            np.stack((x + 0.5 * wide * np.cos(angles), y + 0.5 * tall * np.sin(angles)), axis=1), hair
        )
    apart, eye_y, eye = (
        r.uniform(0.16, 0.24) * wide,
        y + r.uniform(-0.14, -0.02) * tall,
        r.uniform(0.04, 0.1) * wide,
    )
    high, white, pupil = eye * r.uniform(0.5, 1.1), r.random() < 0.6, r.uniform(0.3, 0.6) * eye
    brow, flat = r.random() < 0.4, r.uniform(0.008, 0.025) * tall
    for sign in (-1, 1):
        ex = x + sign * apart
        canvas.fill_oval(ex, eye_y, eye, high, (250, 250, 248) if white else dark)
        if white and r.random() < 0.95:
            canvas.fill_oval(ex, eye_y, pupil, pupil, dark)
        if brow:
            canvas.fill(box(ex - 1.1 * eye, eye_y - 2 * high - flat, ex + 1.1 * eye, eye_y - 2 * high), hair)
    if r.random() < 0.5:
        canvas.fill_oval(
            x,
            y + r.uniform(0.03, 0.1) * tall,
            r.uniform(0.02, 0.06) * wide,
            r.uniform(0.015, 0.05) * tall,
            shade(skin, 0.85),
        )
    mouth_y, half, gap = (
        y + r.uniform(0.2, 0.3) * tall,
        r.uniform(0.1, 0.22) * wide,
        r.uniform(0.008, 0.08) * tall,
    )
    lips = shade(skin, 0.6) if r.random() < 0.3 else vary(r, (168, 52, 64), 30)
    if r.random() < 0.25:
        canvas.fill(box(x - half, mouth_y - gap / 2, x + half, mouth_y + gap / 2), lips)
    elif r.random() < 0.25:
        bow = oval(x, mouth_y, half, 2 * gap)
        canvas.fill(bow[bow[:, 1] >= mouth_y], lips)
    else:
        canvas.fill_oval(x, mouth_y, half, gap, lips)


def _reduce(canvas: Canvas, r: np.random.Generator) -> Pixels:
    size = (canvas.width, canvas.height)
    if r.random() < 0.8:
        return canvas.reduce()
    return cv2.resize(canvas.pixels, size, interpolation=(cv2.INTER_LINEAR, cv2.INTER_NEAREST)[r.integers(2)])


def _distort(pixels: Pixels, r: np.random.Generator) -> Pixels:
    """Light, contrast, sharpness, noise and JPEG."""
    colours = pixels.astype(np.float32)
    if r.random() < 0.45:
        light = (
            np.float32(list(LIGHTS.values())[r.integers(len(LIGHTS))])
            if r.random() < 0.5
            else r.uniform(0.4, 1.05, 3)
        )
        colours *= light.astype(np.float32)
    if r.random() < 0.3:
        colours = (colours - 128) * np.float32(r.uniform(0.5, 1.3)) + np.float32(128 + r.uniform(-40, 40))
    if r.random() < 0.06:
        colours = np.repeat(colours.mean(axis=2, keepdims=True), 3, axis=2)
    if r.random() < 0.25:
        height, width = colours.shape[:2]
        share = r.uniform(0.45, 1)
        small = cv2.resize(
            colours, (max(8, int(width * share)), max(8, int(height * share))), interpolation=cv2.INTER_AREA
        )
        colours = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if r.random() < 0.15:
        colours += r.normal(0, r.uniform(1, 12), colours.shape).astype(np.float32)
    pixels = colours.clip(0, 255).astype(np.uint8)
    if r.random() < 0.35:
        quality = int(r.integers(25, 96))
        _, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        pixels = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])
    return pixels
