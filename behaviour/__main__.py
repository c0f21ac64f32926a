"""``python -m behaviour video FILE --portrait P --speech S``: how well a video of a drawn face behaves.

``python -m behaviour cases`` judges a model on the cases that come with the tests.
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
from hallo3.quantization.precision import PRECISIONS

from .cases import case_of, read_cases
from .figures import figures, summary
from .suite import judged

CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "behaviour"


def main() -> None:
    """One video, or a model on all cases."""
    parser = ArgumentParser(prog="behaviour", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    video = commands.add_parser("video", help="a finished video against its portrait and speech")
    video.add_argument("video", type=Path)
    video.add_argument("--portrait", type=Path, required=True)
    video.add_argument("--speech", type=Path, required=True)
    video.add_argument("--other", type=Path, help="another recording, as a control")
    video.add_argument("--new-frames", type=int, default=BUILT_IN.segment.new_frames, metavar="N")
    cases = commands.add_parser("cases", help="a model on portraits and sentences it has not seen")
    cases.add_argument("--model", type=Path, default=FOLDER)
    cases.add_argument("--cases", type=Path, default=CASES, help="folder of NAME.png, NAME.flac, truth.json")
    cases.add_argument("--steps", type=int)
    cases.add_argument("--sampler")
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true")
    options = parser.parse_args(sys.argv[1:])
    found = _video(options) if options.command == "video" else _cases(options)
    print(json.dumps(found) if options.json else "\n".join(f"{key:14} {found[key]:8.3f}" for key in found))


def _video(options: Namespace) -> dict[str, float]:
    segment = BUILT_IN.segment
    case = case_of("video", read_picture(options.portrait), read_recording(options.speech), segment)
    other = None
    if options.other:
        other = case_of("other", case.portrait, read_recording(options.other), segment).mouth
    found = figures(
        read_video(options.video), case.portrait, case.mouth, new_frames=options.new_frames, other=other
    )
    return found.as_dict()


def _cases(options: Namespace) -> dict[str, float]:
    models = load_models(options.model, torch.device("cpu"), PRECISIONS["fp32"])
    chosen = {"steps": options.steps, "sampler": options.sampler}
    changes = {key: value for key, value in chosen.items() if value is not None}
    return summary(judged(read_cases(options.cases, models.config.segment), models, **changes))


def read_video(path: Path) -> Tensor:
    """All frames [F, 3, H, W] in 0..1."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


if __name__ == "__main__":
    main()
