"""``python -m training.testset RUN FOLDER``: write the cases that models are judged by."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from behaviour.cases import TRUTH
from behaviour.mouth import compute_mouth
from behaviour.pixels import measure_opening, resize_square
from hallo3.config import BUILT_IN

from .drawing import draw
from .faces import Pose, make_person
from .motion import make_poses
from .pictures import draw_clip
from .voices import read_utterance

CASES, PORTRAIT_SIDE, MAX_SECONDS = 10, 256, 5


def write_cases(voices: Path, folder: Path) -> None:
    """Ten people and sentences that no training scene has."""
    folder.mkdir(parents=True, exist_ok=True)
    segment = BUILT_IN.segment
    per_frame = segment.sample_rate // segment.fps
    truth: dict[str, list[float]] = {}
    for number, path in enumerate(sorted(voices.glob("*.wav"))[:CASES]):
        name, person = f"{number:02d}", f"held-out|{number}"
        picture = draw(make_person(person), Pose(), PORTRAIT_SIDE)
        speech = read_utterance(path)
        frames = min(len(speech) // per_frame, MAX_SECONDS * segment.fps)
        speech = speech[: frames * per_frame]
        mouth = compute_mouth(speech, frames, segment.sample_rate, segment.fps)
        poses = make_poses(person, mouth.open.tolist(), mouth.wide.tolist(), Pose())
        video = torch.from_numpy(draw_clip(person, poses, segment.height))
        portrait = torch.from_numpy(picture).permute(2, 0, 1) / 255
        rows = measure_opening(video.permute(0, 3, 1, 2) / 255, resize_square(portrait, segment.height))
        truth[name] = [round(float(value), 3) for value in rows]
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)
        pcm = np.round(speech * 32767).astype(np.int16)
        soundfile.write(folder / f"{name}.flac", pcm, segment.sample_rate)
    (folder / TRUTH).write_text(json.dumps(truth) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]) / "voices" / "held-out", Path(sys.argv[2]))
