"""``python -m training.testset RUN FOLDER``: the cases of ``tests/behaviour``, from a run's held-out voices:
single people and pairs with their sentences, and a table of prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from behaviour.cases import PROMPTS, TRUTH
from behaviour.contents import measure_ground_change
from behaviour.figures import PROMPTED_FRAMES
from behaviour.mouth import Mouth, compute_mouth
from behaviour.pixels import Head, Region, measure_openings, measure_sharpness
from hallo3.config import BUILT_IN
from hallo3.media.audio import read_recording, to_mono
from hallo3.noise import make_generator

from .faces import Pixels, Place, Pose, locate_head, make_person
from .grounds import GROUNDS, Ground
from .motion import make_poses
from .pictures import Cast, Look, draw_clip, draw_frame
from .prompts import LOOKS
from .voices import read_utterance

PORTRAIT = (192, 288)
SEGMENT = BUILT_IN.segment
SIZE = (SEGMENT.height, SEGMENT.width)
MAX_SECONDS, PAIR_SECONDS = 5, 4
OPUS_LEVEL = 0.93
"""Of compression; 0 is none, 1 the most."""
YAWS = (0, -15, 25, -35, 45, -60, 55, 10, -48, 30)
PITCHES = (0, 18, -8, 0, 6, 0, -18, -20, 8, 20)
SIZES = (0.95, 0.85, 0.72, 0.9, 0.8, 0.85, 0.7, 1.0, 0.75, 0.66)
PLACES = (0.75, 0.62, 0.98, 0.85, 0.55, 0.9, 0.66, 0.75, 1.0, 0.5)
"""Of the ten heads: degrees to the right and up; head units and middles in picture heights."""
LOOKS_OF_SINGLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("wall", "", ()),
    ("trees", "", ()),
    ("wall", "", ("cup",)),
    ("sea", "", ()),
    ("wall", "", ()),
    ("street", "rain", ()),
    ("wall", "", ()),
    ("clouds", "", ()),
    ("wall", "", ("phone",)),
    ("wall", "snow", ()),
)
PAIRS = (
    ((35, -35), "wall", ""),
    ((50, -20), "street", ""),
    ((15, -45), "wall", ""),
    ((-10, 20), "trees", "rain"),
)
"""Yaws of two, the ground, the weather."""
MAX_CROSS = 0.08
"""Largest correlation between the mouths of two who speak at once."""
SILENCE = Mouth(np.zeros(SEGMENT.new_frames, np.float32), np.full(SEGMENT.new_frames, 0.5, np.float32))
TEMPLATES: dict[str, tuple[str, ...]] = {
    "street": ("cars pass by outside", "in the city with traffic near"),
    "sea": ("waves of the sea are behind someone speaking", "on the beach"),
    "trees": ("in a forest", "the park is behind the person"),
    "clouds": ("clouds are passing by", "under a cloudy sky"),
    "rain": ("the rain is falling", "outside it is raining"),
    "snow": ("snow is falling calmly", "a snowy day"),
    "cup": ("holding a mug of coffee", "with tea in a cup"),
    "phone": ("a smartphone is near", "holding the mobile phone"),
    "balloon": ("a balloon is behind the head", "one balloon near someone"),
    "bird": ("birds passing by", "a bird is behind the person"),
    "ball": ("a ball is rolling by", "one ball passing in front"),
    "warm": ("the light is warm", "all in warm light"),
    "blue": ("it is blue light", "the light outside is blue"),
    "green": ("someone in green light", "the light is green"),
    "dim": ("in dim light", "a dim studio light"),
    "left": ("the head is turned left", "facing leftwards"),
    "right": ("someone looking right", "the face turned rightwards"),
    "up": ("looking upwards", "the person is facing up"),
    "down": ("the head is facing down", "looking downwards"),
}
"""Phrases for what is asked: the words of training in sentences that it does not have."""
NEUTRAL = (
    "",
    "A person talks to the camera.",
    "portrait of someone speaking calmly in the studio",
    "it is a friendly face",
)
KINDS = (
    ("ground",),
    ("weather",),
    ("thing",),
    ("light",),
    ("look",),
    ("ground", "weather"),
    ("thing", "ground"),
    ("light", "thing"),
    ("look", "weather", "thing"),
    (),
)
"""What the ten prompts of every portrait ask for."""


class Setting(NamedTuple):
    """Who is in a case's portrait, where each looks (yaw and pitch in radians), and what else it shows."""

    cast: Cast
    directions: list[tuple[float, float]]
    look: Look


def list_settings() -> dict[str, Setting]:
    """Of all cases, by name."""
    settings: dict[str, Setting] = {}
    for number, (kind, weather, things) in enumerate(LOOKS_OF_SINGLES):
        name, place = f"held-out|{number}", Place(PLACES[number], 0.49, SIZES[number])
        direction = (float(np.radians(YAWS[number])), float(np.radians(PITCHES[number])))
        look = Look(Ground(kind, name, weather), things)
        settings[f"{number:02d}"] = Setting(Cast((name,), (place,)), [direction], look)
    for number, (yaws, kind, weather) in enumerate(PAIRS):
        name = f"held-out|pair|{number}"
        cast = Cast((f"{name}|left", f"{name}|right"), (Place(0.40, 0.49, 0.74), Place(1.10, 0.51, 0.68)))
        directions = [(float(np.radians(yaw)), float(np.radians(4 * number - 6))) for yaw in yaws]
        settings[f"pair{number}"] = Setting(cast, directions, Look(Ground(kind, name, weather)))
    return settings


def write_cases(voices: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(voices.glob("*.wav"))
    truth: dict[str, Any] = {}
    settings = list_settings()
    spoken = iter(_choose_pairs(paths[len(YAWS) :]))
    for name, setting in settings.items():
        alone = len(setting.directions) == 1
        chosen = [paths[int(name)]] if alone else next(spoken)
        speeches = [_cut(path, MAX_SECONDS if alone else PAIR_SECONDS) for path in chosen]
        frames = min(len(speech) for speech in speeches) // _per_frame()
        mouths = []
        for number, speech in enumerate(speeches):
            path = folder / f"{name}.{number}.ogg"
            _write_opus(path, speech[: frames * _per_frame()])
            mouths.append(_read_mouth(path, frames))
        truth[name] = _draw_case(folder / f"{name}.png", setting, mouths)
    (folder / TRUTH).write_text(json.dumps(truth, separators=(",", ":")) + "\n", encoding="utf-8")
    prompts = _write_prompts({name: each for name, each in settings.items() if len(each.directions) == 1})
    lines = ",\n ".join(json.dumps(row) for row in prompts)
    (folder / PROMPTS).write_text(f"[{lines}]\n", encoding="utf-8")


def _draw_case(path: Path, setting: Setting, mouths: Sequence[Mouth]) -> dict[str, Any]:
    """Write the portrait; measure the drawn video."""
    cast, _, look = setting
    references, paths = make_paths(setting, mouths)
    picture = Image.fromarray(draw_frame(look, cast, references, 0.0, *PORTRAIT))
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    portrait = to_tensor(np.array(Image.open(path).convert("RGB"))[None])[0]
    video = to_tensor(draw_clip(look, cast, paths, 0.0, *SIZE))
    heads = find_heads(cast, references)
    return {
        "people": [
            {
                "head": [round(value, 4) for value in head.box],
                "yaw": round(float(np.degrees(head.yaw)), 1),
                "pitch": round(float(np.degrees(head.pitch)), 1),
                "openings": [round(value, 2) for value in measure_openings(video, portrait, head).tolist()],
            }
            for head in heads
        ],
        "sharpness": round(measure_sharpness(video), 3),
        "change": round(measure_ground_change(video, heads), 3),
        "ground": look.ground.kind,
        "weather": look.ground.weather,
        "things": sorted(look.things),
    }


def make_paths(
    setting: Setting, mouths: Sequence[Mouth], asked: str | None = None
) -> tuple[list[Pose], list[list[Pose]]]:
    """Poses in the portrait, and of every frame, looking where a prompt ``asked``."""
    cast, directions, _ = setting
    references = [
        make_poses(f"{name}|reference", [0.0], [0.5], direction)[0]._replace(closed=0.0)
        for name, direction in zip(cast.names, directions, strict=True)
    ]
    paths = []
    for name, direction, mouth, first in zip(cast.names, directions, mouths, references, strict=True):
        yaw, pitch = LOOKS[asked].direction if asked else (0.0, 0.0)
        there = (yaw or direction[0], pitch or direction[1])
        paths.append(make_poses(name, mouth.open.tolist(), mouth.wide.tolist(), there, first))
    return references, paths


def find_heads(cast: Cast, references: Sequence[Pose]) -> list[Head]:
    people = zip(cast.names, references, cast.places, strict=True)
    return [
        Head(Region(*locate_head(make_person(name), pose, place)), pose.yaw, pose.pitch)
        for name, pose, place in people
    ]


def _write_prompts(settings: Mapping[str, Setting]) -> list[dict[str, Any]]:
    """Ten prompts for each portrait, which ask for what it does not show; portraits take turns."""
    r = make_generator("prompts of the test set")
    rows: list[dict[str, Any]] = []
    for number, kinds in enumerate(KINDS):
        for index, (name, setting) in enumerate(settings.items()):
            row: dict[str, Any] = {"name": name}
            phrases = []
            for kind in kinds:
                value = _choose(kind, index + 3 * number, setting.look, setting.directions[0])
                row |= {"things": [value]} if kind == "thing" else {kind: value}
                phrases.append(TEMPLATES[value][r.integers(2)])
            row["prompt"] = ", ".join(phrases) if kinds else NEUTRAL[index % len(NEUTRAL)]
            video = draw_answer(setting, row)
            references, _ = make_paths(setting, [SILENCE])
            change = measure_ground_change(video[-PROMPTED_FRAMES:], find_heads(setting.cast, references))
            rows.append(row | {"change": round(change, 3)})
    return rows


def _choose(kind: str, turn: int, look: Look, direction: tuple[float, float]) -> str:
    if kind == "ground":
        options = [each for each in GROUNDS if each not in ("wall", look.ground.kind)]
    elif kind == "weather":
        options = [each for each in ("rain", "snow") if each != look.ground.weather]
    elif kind == "thing":
        options = [each for each in ("cup", "phone", "balloon", "bird", "ball") if each not in look.things]
    elif kind == "light":
        options = ["warm", "blue", "green", "dim"]
    else:
        yaw, pitch = np.degrees(direction)
        far = {"left": yaw + 40, "right": yaw - 40, "up": pitch - 20, "down": pitch + 20}
        options = [each for each, by in far.items() if abs(by) > (25 if each in ("left", "right") else 14)]
    return options[turn % len(options)]


def answer(look: Look, row: Mapping[str, Any]) -> Look:
    """What the video shows that obeys a prompt."""
    ground = look.ground
    if row.get("ground"):
        ground = Ground(row["ground"], f"{ground.name}|asked", ground.weather)
    if row.get("weather"):
        ground = ground._replace(weather=row["weather"])
    return Look(ground, tuple(sorted({*look.things, *row.get("things", ())})), row.get("light"))


def draw_answer(setting: Setting, row: Mapping[str, Any]) -> Tensor:
    """A silent video of one segment that obeys a prompt."""
    _, paths = make_paths(setting, [SILENCE], row.get("look"))
    return to_tensor(draw_clip(answer(setting.look, row), setting.cast, paths, 0.0, *SIZE))


def _choose_pairs(paths: Sequence[Path]) -> list[list[Path]]:
    """Sentences whose mouths do not move together, each once."""
    long = [path for path in paths if len(read_utterance(path)) >= 3 * SEGMENT.sample_rate]
    mouths = {path: compute_mouth(_cut(path, PAIR_SECONDS), 3 * SEGMENT.fps).open for path in long}
    chosen: list[list[Path]] = []
    for one, other in combinations(long, 2):
        used = {path for pair in chosen for path in pair}
        cross = abs(float(np.corrcoef(mouths[one], mouths[other])[0, 1]))
        if cross < MAX_CROSS and not used & {one, other}:
            chosen.append([one, other])
    return chosen[: len(PAIRS)]


def _cut(path: Path, seconds: float) -> np.ndarray:
    speech = read_utterance(path)
    frames = min(len(speech) // _per_frame(), round(seconds * SEGMENT.fps))
    return speech[: frames * _per_frame()]


def _per_frame() -> int:
    return SEGMENT.sample_rate // SEGMENT.fps


def _write_opus(path: Path, speech: np.ndarray) -> None:
    opus: Any = {"format": "OGG", "subtype": "OPUS", "compression_level": OPUS_LEVEL}
    soundfile.write(path, speech, SEGMENT.sample_rate, **opus)


def _read_mouth(path: Path, frames: int) -> Mouth:
    """As whoever reads the file computes it."""
    mono = to_mono(read_recording(path), SEGMENT.sample_rate)
    return compute_mouth(mono, frames, SEGMENT.sample_rate, SEGMENT.fps)


def to_tensor(frames: Pixels) -> Tensor:
    """[F, H, W, 3] bytes -> [F, 3, H, W] in 0..1."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    write_cases(Path(sys.argv[1]) / "voices" / "held-out", Path(sys.argv[2]))
