"""``python -m behaviour video FILE --portrait P --speech S``: measure a video of a drawn face.

``python -m behaviour cases`` measures a model on the cases of the tests.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from hallo3.built_in import FOLDER
from hallo3.config import BUILT_IN
from hallo3.loading import load_models
from hallo3.media.audio import read_recording
from hallo3.media.image import read_picture
from hallo3.quantization import PRECISIONS

from .cases import make_case, read_cases
from .figures import measure_video, summarize
from .suite import measure_cases

CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "behaviour"


def main() -> None:
    parser = ArgumentParser(prog="behaviour", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    video = commands.add_parser("video", help="a video against its portrait and speech")
    video.add_argument("video", type=Path)
    video.add_argument("--portrait", type=Path, required=True)
    video.add_argument("--speech", type=Path, required=True)
    video.add_argument("--other", type=Path, help="another recording, as the control")
    video.add_argument("--new-frames", type=int, default=BUILT_IN.segment.new_frames, metavar="N")
    cases = commands.add_parser("cases", help="a model on portraits and sentences that it was not trained on")
    cases.add_argument("--model", type=Path, default=FOLDER)
    cases.add_argument("--cases", type=Path, default=CASES, help="folder of NAME.png, NAME.flac, truth.json")
    cases.add_argument("--steps", type=int)
    cases.add_argument("--sampler")
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true")
    options = parser.parse_args(sys.argv[1:])
    figures = _measure_video(options) if options.command == "video" else _measure_cases(options)
    lines = [f"{key:14} {value:8.3f}" for key, value in figures.items()]
    print(json.dumps(figures) if options.json else "\n".join(lines))


def _measure_video(options: Namespace) -> dict[str, float]:
    segment = BUILT_IN.segment
    case = make_case("video", read_picture(options.portrait), read_recording(options.speech), segment)
    other = None
    if options.other:
        other = make_case("other", case.portrait, read_recording(options.other), segment).mouth
    frames, new_frames = read_video(options.video), options.new_frames
    return measure_video(frames, case.portrait, case.mouth, new_frames=new_frames, other=other).as_dict()


def _measure_cases(options: Namespace) -> dict[str, float]:
    models = load_models(options.model, torch.device("cpu"), PRECISIONS["fp32"])
    settings = {"steps": options.steps, "sampler": options.sampler}
    changes = {key: value for key, value in settings.items() if value is not None}
    return summarize(measure_cases(read_cases(options.cases, models.config.segment), models, **changes))


def read_video(path: Path) -> Tensor:
    """All frames [F, 3, H, W] in 0..1."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


if __name__ == "__main__":
    main()
