"""For owners of released weights: what approximations do to a video of yours.

    python -m benchmarks drift --model DIR --portrait P --speech S [--seconds 4]

The exact video and every approximation that runs here are made with one seed, and compared frame by frame;
another seed shows what noise alone does. What is printed, and written with --json, names no file and no
folder: it can be pasted into an issue. PSNR and SSIM say how far a video is from the exact one, not which is
better. Of photographs ``seam``, ``sharpness`` and ``movement`` are measured, ``face`` where faces can be told
apart; of drawn faces how the mouth ``follows`` the speech, and how open it is in silence, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from behaviour.cases import Case, make_case
from behaviour.figures import measure_video
from behaviour.pixels import measure_changes, measure_seams, measure_sharpness
from benchmarks.drift_ways import EXACT, Made, Source, Way, chosen, cut, make, warm_up
from benchmarks.report import device_named, pathless, stamped, table, write_json
from benchmarks.similarity import compared
from hallo3.checkpoints.component_config import read_model_config
from hallo3.checkpoints.locate import ModelFolder
from hallo3.config import Hallo3Config
from hallo3.face.analyzer import analyze_portrait
from hallo3.face.registry import SimilarityFunction, create_analyzer, similarity_to
from hallo3.media.audio import read_recording
from hallo3.media.image import read_picture
from hallo3.quantization.precision import get_precision
from hallo3.settings import settings_for

DRAWN = "drawn-face"
MOUTH = ("follows", "silent", "colour")
"""Figures that know where a drawn face has its mouth and cheeks."""


def behaved(made: Made, config: Hallo3Config, case: Case, likeness: SimilarityFunction) -> dict[str, float]:
    """Figures of a video that need no other one; what cannot be measured is left out."""
    frames, new = made.frames, config.segment.new_frames
    found: dict[str, float] = {
        "seam": measure_seams(frames, new),
        "sharpness": measure_sharpness(frames),
        "movement": float(measure_changes(frames).mean()),
    }
    looked_at = [likeness(frame) for frame in frames[:: config.segment.fps]]
    known = [value for value in looked_at if value is not None]
    if known:
        found["face"] = sum(known) / len(known)
    if config.face.space == DRAWN and frames.shape[-1] == frames.shape[-2]:
        seen = measure_video(frames, case.portrait, case.mouth, new_frames=new).as_dict()
        found |= {name: seen[name] for name in MOUTH}
    return {name: round(value, 3) for name, value in found.items() if value == value}


def report(source: Source, wanted: Mapping[str, Way], left: Mapping[str, str]) -> dict[str, Any]:
    """The row of every way that is ``wanted``, the exact one first; what was made; and what was ``left``
    out."""
    files = ModelFolder(source.model)
    config = read_model_config(files.transformer)
    analyzer = create_analyzer(config.face, files.faces)
    likeness = similarity_to(analyze_portrait(source.portrait, analyzer, config.face).embedding, analyzer)
    case = make_case("", source.portrait, source.speech, config.segment)
    exact = wanted[EXACT]
    warm_up(exact, source, config)
    rows: dict[str, dict[str, Any]] = {}
    first: Made | None = None
    for name, way in wanted.items():
        made = make(way, source)
        row: dict[str, Any] = {"evaluations": made.evaluations, "seconds": round(made.seconds, 1)}
        if first is not None:
            row |= compared(made.frames, first.frames)
        if made.cache.steps:
            row |= {"worst_check": round(made.cache.worst, 3), "switched_off": bool(made.cache.off)}
        rows[name] = row | behaved(made, config, case, likeness)
        print(f"{name}: {made.seconds:.1f} s", file=sys.stderr, flush=True)
        first = first or made
    told = {name: pathless(why) for name, why in left.items()}
    return {"made": _made(config, exact, first), "ways": rows, "left out": told}


def _made(config: Hallo3Config, exact: Way, first: Made | None) -> dict[str, Any]:
    """What the exact video is: sizes and settings."""
    settings, new = exact.settings, config.segment.new_frames
    frames = 0 if first is None else len(first.frames)
    return {
        "model": config.name,
        "frames": frames,
        "segments": -(-frames // new),
        "size": "" if first is None else f"{first.frames.shape[-1]} x {first.frames.shape[-2]}",
        "steps": settings.steps,
        "guidance": settings.guidance_scale,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "type": exact.precision.name,
        "attention": "" if first is None else first.attention,
    }


def text(found: Mapping[str, Any]) -> str:
    """The table, what it was made of, and what did not run."""
    said = ", ".join(f"{name} {value}" for name, value in found["made"].items() if value != "")
    left = [f"{name}: {why}" for name, why in found["left out"].items()]
    lines = [f"on {found['machine']['device']}: {said}", "", table(found["ways"])]
    return "\n".join([*lines, *(["", "left out:", *left] if left else [])])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the model's folder")
    add("--portrait", type=Path, required=True, metavar="P")
    add("--speech", type=Path, required=True, metavar="S")
    add("--seconds", type=float, default=4.0, metavar="N", help="of the speech (default: 4)")
    add("--prompt", default="", metavar="TEXT", help="is not told in the result")
    add("--device", default="auto", help="default: a GPU if there is one")
    add("--dtype", default="auto", help="of the exact video (default: bf16 on a GPU, else fp32)")
    add("--attention", default="auto", metavar="NAME", help="of the exact video (default: torch's choice)")
    add("--steps", type=int, metavar="N", help="default: the model's")
    add("--guidance", type=float, metavar="G", help="default: the model's")
    add("--sampler", metavar="NAME", help="default: the model's")
    add("--seed", type=int, default=0)
    add("--only", nargs="+", default=[], metavar="NAME", help="only these beside the exact video")
    add("--json", type=Path, metavar="FILE", help="also write what is to be pasted here")
    return parser.parse_args()


def main() -> None:
    """Make, compare, print, keep. Raises the errors of :mod:`hallo3.errors`."""
    options = _options()
    device = device_named(options.device)
    config = read_model_config(ModelFolder(options.model).transformer)
    settings = settings_for(
        config.defaults,
        steps=options.steps,
        guidance_scale=options.guidance,
        sampler=options.sampler,
        seed=options.seed,
    )
    numbers = options.dtype if options.dtype != "auto" else "fp32" if device.type == "cpu" else "bf16"
    exact = Way(settings=settings, precision=get_precision(numbers), attention=options.attention)
    wanted, left = chosen(exact, device, config.trunk.head_dim, options.only)
    source = Source(
        model=options.model,
        device=device,
        portrait=read_picture(options.portrait),
        speech=cut(read_recording(options.speech), options.seconds),
        prompt=options.prompt,
    )
    with torch.inference_mode():
        found = stamped(report(source, wanted, left), "drift", sys.argv[1:], device)
    print(f"{text(found)}\n\n```json\n{json.dumps(found)}\n```")
    if options.json:
        write_json(found, options.json)


if __name__ == "__main__":
    main()
