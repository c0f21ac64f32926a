"""The cases that models are judged by: ``python -m training.testset RUN FOLDER`` draws and writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from behaviour.cases import TRUTH
from behaviour.mouth import mouth_of
from behaviour.pixels import at_side, opening
from hallo3.config import BUILT_IN

from .drawing import draw
from .faces import Pose, person_named
from .motion import poses
from .pictures import clip_frames
from .voices import utterance

CASES, SIDE = 10, 256
SECONDS = 5


def write_cases(voices: Path, folder: Path) -> None:
    """Ten people who are nobody in training, each with a sentence that is not said there."""
    folder.mkdir(parents=True, exist_ok=True)
    segment = BUILT_IN.segment
    per_frame = segment.sample_rate // segment.fps
    truth: dict[str, list[float]] = {}
    for number, path in enumerate(sorted(voices.glob("*.wav"))[:CASES]):
        name, person = f"{number:02d}", f"held-out|{number}"
        who = person_named(person)
        picture = draw(who, Pose(), SIDE)
        sound = utterance(path)
        frames = min(len(sound) // per_frame, SECONDS * segment.fps)
        sound = sound[: frames * per_frame]
        mouth = mouth_of(sound, frames, segment.sample_rate, segment.fps)
        path_of_head = poses(person, mouth.open.tolist(), mouth.wide.tolist(), Pose())
        drawn = torch.from_numpy(clip_frames(person, path_of_head, segment.height))
        portrait = torch.from_numpy(picture).permute(2, 0, 1) / 255
        rows = opening(drawn.permute(0, 3, 1, 2) / 255, at_side(portrait, segment.height))
        truth[name] = [round(float(value), 3) for value in rows]
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)
        soundfile.write(
            folder / f"{name}.flac", np.round(sound * 32767).astype(np.int16), segment.sample_rate
        )
    (folder / TRUTH).write_text(json.dumps(truth) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]) / "voices" / "held-out", Path(sys.argv[2]))
