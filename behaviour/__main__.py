"""``python -m behaviour video FILE --portrait P --speech S``: measure a video of drawn people, each with a
recording, from left to right.

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
from hallo3.face.registry import create_analyzer
from hallo3.loading import load_models
from hallo3.media.audio import read_recording
from hallo3.media.image import read_picture
from hallo3.quantization import PRECISIONS

from .cases import Case, make_speaker, pairs, read_cases, read_prompts, singles
from .figures import measure_video, summarize, summarize_prompts
from .suite import find_heads, measure_cases, measure_pairs, measure_prompts

CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "behaviour"


def main() -> None:
    parser = ArgumentParser(prog="behaviour", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    video = commands.add_parser("video", help="a video against its portrait and speech")
    video.add_argument("video", type=Path)
    video.add_argument("--portrait", type=Path, required=True)
    video.add_argument("--speech", type=Path, required=True, nargs="+")
    video.add_argument("--other", type=Path, help="another recording, as the control")
    video.add_argument("--new-frames", type=int, default=BUILT_IN.segment.new_frames, metavar="N")
    cases = commands.add_parser("cases", help="a model on portraits and sentences that it was not trained on")
    cases.add_argument("--model", type=Path, default=FOLDER)
    cases.add_argument("--cases", type=Path, default=CASES, help="folder of NAME.png, NAME.N.ogg, truth.json")
    cases.add_argument("--kind", choices=("people", "pairs", "prompts"), default="people")
    cases.add_argument("--count", type=int, metavar="N", help="of the cases or prompts (default: all)")
    cases.add_argument("--given", action="store_true", help="faces are where the cases say")
    cases.add_argument("--steps", type=int)
    cases.add_argument("--sampler")
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true")
    options = parser.parse_args(sys.argv[1:])
    figures = _measure_video(options) if options.command == "video" else _measure_cases(options)
    lines = [f"{key:14} {value:8.3f}" for key, value in figures.items()]
    print(json.dumps(figures) if options.json else "\n".join(lines))


def _measure_video(options: Namespace) -> dict[str, float]:
    segment, portrait = BUILT_IN.segment, read_picture(options.portrait)
    face = create_analyzer(BUILT_IN.face).analyze(portrait)
    heads = find_heads(portrait, face.boxes)
    if len(options.speech) == 1 and face.index is not None:
        heads = heads[face.index :][:1]
    if len(heads) != len(options.speech):
        sys.exit(f"{len(heads)} faces were found, and {len(options.speech)} recordings are given")
    recordings = [read_recording(path) for path in options.speech]
    speakers = [make_speaker(*each, segment) for each in zip(heads, recordings, strict=True)]
    case = Case(name="video", portrait=portrait, speakers=tuple(speakers))
    other = make_speaker(heads[0], read_recording(options.other), segment).mouth if options.other else None
    return measure_video(
        read_video(options.video), case, new_frames=options.new_frames, other=other
    ).as_dict()


def _measure_cases(options: Namespace) -> dict[str, float]:
    models = load_models(options.model, torch.device("cpu"), PRECISIONS["fp32"])
    settings = {"steps": options.steps, "sampler": options.sampler}
    changes = {key: value for key, value in settings.items() if value is not None} | {"given": options.given}
    known = read_cases(options.cases, models.config.segment)
    if options.kind == "pairs":
        return summarize(measure_pairs(pairs(known)[: options.count], models, **changes))
    if options.kind == "prompts":
        prompts = read_prompts(options.cases)[: options.count]
        return summarize_prompts(measure_prompts(known, prompts, models, **changes))
    return summarize(measure_cases(singles(known)[: options.count], models, **changes))


def read_video(path: Path) -> Tensor:
    """All frames [F, 3, H, W] in 0..1."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


if __name__ == "__main__":
    main()
