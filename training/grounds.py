"""What is behind drawn people: walls, places that move, and weather. Coordinates are in picture heights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hallo3.noise import make_generator

from .drawing import Canvas, box, shade
from .faces import Colour, blend, draw_colour, vary

FPS = 25
CLOUD_SPEED, WAVE_SPEED, CAR_SPEED, RAIN_SPEED, SNOW_SPEED = 0.10, 0.16, 0.32, 0.7, 0.25
"""Picture heights per second."""
SWAY_SECONDS, SWAY_REACH = 2.2, 0.035
RAIN_COLOUR, SNOW_COLOUR = (176, 206, 240), (250, 252, 255)
DROPS, FLAKES = 30, 30


class Ground(NamedTuple):
    """A place's ``kind`` (a key of ``GROUNDS``), what it looks like (decided by ``name``), and weather:
    "rain", "snow" or ""."""

    kind: str
    name: str
    weather: str = ""


def draw_ground(canvas: Canvas, ground: Ground, frame: float) -> None:
    """Everything behind the people."""
    GROUNDS[ground.kind](canvas, make_generator(f"ground|{ground.name}"), frame / FPS)
    if ground.weather:
        WEATHERS[ground.weather](canvas, make_generator(f"weather|{ground.name}"), frame / FPS)


def _draw_wall(canvas: Canvas, r: np.random.Generator, _: float) -> None:
    one = draw_colour(r, 70, 245)
    canvas.shade_down(one, blend(one, draw_colour(r, 50, 245), 0.5))


def _draw_street(canvas: Canvas, r: np.random.Generator, seconds: float) -> None:
    """Houses, a road, and cars that pass to the right."""
    sky, road = vary(r, (176, 206, 232), 18), vary(r, (96, 98, 106), 10)
    canvas.shade_down(sky, blend(sky, (235, 235, 230), 0.5))
    x = -0.05
    while x < canvas.aspect:
        width, top, colour = r.uniform(0.18, 0.32), r.uniform(0.1, 0.38), draw_colour(r, 110, 215)
        canvas.fill(box(x, top, x + width, 0.66), colour)
        for wx in (0.25, 0.6):
            for wy in (0.08, 0.22, 0.36):
                left, low = x + wx * width, top + wy
                if low < 0.56:
                    canvas.fill(box(left, low, left + 0.16 * width, low + 0.06), shade(colour, 0.72))
        x += width
    canvas.fill(box(0, 0.64, canvas.aspect, 1.0), road)
    spacing = 0.95
    count = int(canvas.aspect / spacing) + 2
    start = r.uniform(0, spacing)
    for index in range(count):
        x = (start + index * spacing + CAR_SPEED * seconds) % (count * spacing) - spacing / 2
        _draw_car(canvas, x, 0.72, vary(r, ((206, 60, 50), (60, 96, 190), (236, 200, 60))[index % 3], 10))


def _draw_car(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.fill(np.array(((x - 0.1, y), (x - 0.06, y - 0.08), (x + 0.06, y - 0.08), (x + 0.1, y))), colour)
    canvas.fill(box(x - 0.05, y - 0.065, x + 0.05, y - 0.015), (206, 226, 240))
    canvas.fill(box(x - 0.17, y - 0.01, x + 0.17, y + 0.07), colour)
    for side in (-0.1, 0.1):
        canvas.fill_oval(x + side, y + 0.075, 0.036, 0.036, (30, 30, 34))


def _draw_sea(canvas: Canvas, r: np.random.Generator, seconds: float) -> None:
    """Sky above waves that roll to the left and to the right."""
    sky, water = vary(r, (190, 218, 240), 16), vary(r, (40, 110, 160), 16)
    canvas.shade_down(sky, blend(sky, (250, 240, 225), 0.6))
    across = np.linspace(0, canvas.aspect, 60)
    for band in range(6):
        y = 0.42 + 0.10 * band
        direction = 1 if band % 2 else -1
        phase = 2 * np.pi * (across - direction * WAVE_SPEED * seconds) / 0.36 + r.uniform(0, 6.28)
        line = np.stack((across, y + (0.012 + 0.004 * band) * np.sin(phase)), axis=1)
        corners = np.array(((canvas.aspect, 1.0), (0.0, 1.0)))
        colour = shade(water, 1.22 if band % 2 else 0.92)
        canvas.fill(np.concatenate((line, corners)), colour)


def _draw_trees(canvas: Canvas, r: np.random.Generator, seconds: float) -> None:
    """A meadow with trees that sway."""
    sky, grass = vary(r, (196, 222, 240), 14), vary(r, (126, 170, 90), 16)
    canvas.shade_down(sky, blend(sky, (245, 245, 235), 0.5))
    canvas.fill(box(0, 0.66, canvas.aspect, 1.0), grass)
    leaves, start = vary(r, (66, 130, 64), 16), r.uniform(0, 2 * np.pi)
    for index, x in enumerate((0.16, 0.78, 1.36)):
        x, low = x + r.uniform(-0.06, 0.06), 0.74
        sway = SWAY_REACH * np.sin(2 * np.pi * seconds / SWAY_SECONDS + start + 0.8 * index)
        trunk = (
            (x - 0.025, low),
            (x + sway * 0.6 - 0.015, 0.36),
            (x + sway * 0.6 + 0.015, 0.36),
            (x + 0.025, low),
        )
        canvas.fill(np.array(trunk), (110, 78, 54))
        for dx, dy, size in ((-0.09, 0.05, 0.11), (0.09, 0.04, 0.11), (0.0, -0.05, 0.14)):
            canvas.fill_oval(x + sway + dx, 0.30 + dy, size, size * 0.9, shade(leaves, 1 - dx))


def _draw_clouds(canvas: Canvas, r: np.random.Generator, seconds: float) -> None:
    """Clouds that drift to the right."""
    sky = vary(r, (96, 158, 222), 16)
    canvas.shade_down(sky, blend(sky, (226, 236, 246), 0.75))
    span = canvas.aspect + 0.6
    for index in range(5):
        x = (r.uniform(0, 0.3) + index * span / 5 + CLOUD_SPEED * seconds) % span - 0.3
        y = r.uniform(0.08, 0.5)
        for dx, dy, size in ((-0.10, 0.02, 0.055), (0.0, -0.02, 0.08), (0.10, 0.015, 0.06)):
            canvas.fill_oval(x + dx, y + dy, size * 1.3, size, (248, 250, 252))


def _draw_rain(canvas: Canvas, r: np.random.Generator, seconds: float) -> None:
    """Slanting streaks."""
    for _ in range(DROPS):
        x, y, reach = r.uniform(0, canvas.aspect), r.uniform(0, 1.2), r.uniform(0.09, 0.13)
        fallen = y + RAIN_SPEED * seconds
        top = fallen % 1.2 - 0.15
        x = (x + 0.37 * (fallen // 1.2)) % canvas.aspect
        streak = ((x, top), (x + 0.018, top), (x + 0.018 - 0.02, top + reach), (x - 0.02, top + reach))
        canvas.fill(np.array(streak), RAIN_COLOUR)


def _draw_snow(canvas: Canvas, r: np.random.Generator, seconds: float) -> None:
    """Flakes that fall slowly and sway."""
    for _ in range(FLAKES):
        x, y, size, phase = (
            r.uniform(0, canvas.aspect),
            r.uniform(0, 1.1),
            r.uniform(0.018, 0.026),
            r.uniform(0, 6),
        )
        fallen = y + SNOW_SPEED * seconds
        top = fallen % 1.1 - 0.05
        x = (x + 0.41 * (fallen // 1.1)) % canvas.aspect + 0.02 * np.sin(2 * seconds + phase)
        canvas.fill_oval(x, top, size, size, SNOW_COLOUR)


Draw = Callable[[Canvas, np.random.Generator, float], None]
GROUNDS: dict[str, Draw] = {
    "wall": _draw_wall,
    "street": _draw_street,
    "sea": _draw_sea,
    "trees": _draw_trees,
    "clouds": _draw_clouds,
}
WEATHERS: dict[str, Draw] = {"rain": _draw_rain, "snow": _draw_snow}
