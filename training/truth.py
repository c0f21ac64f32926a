"""``python -m training.truth [--json FILE]``: the figures of drawn videos, which are what the measures can
reach at most, and of videos that ignore their prompts, which are chance. ``--vae RUN`` gives the figures that
a transformer can reach at most."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from behaviour.cases import Case, PromptCase, pairs, read_cases, read_prompts, singles
from behaviour.figures import Figures, Obeyed, measure_prompt, measure_video, summarize, summarize_prompts
from hallo3.config import BUILT_IN
from hallo3.vae.autoencoder import VideoVAE

from .pictures import draw_clip
from .testset import SEGMENT, SIZE, draw_answer, list_settings, make_paths, to_tensor
from .vae import load_vae

CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "behaviour"


def pass_through(vae: VideoVAE, frames: Tensor) -> Tensor:
    """Frames [F, 3, H, W] in 0..1, encoded and decoded segment by segment: the best that a transformer on
    these latents can render."""
    parts: list[Tensor] = []
    with torch.inference_mode():
        for first in range(0, len(frames) - SEGMENT.motion_frames, SEGMENT.new_frames):
            segment = frames[first : first + SEGMENT.frames]
            short = SEGMENT.frames - len(segment)
            segment = torch.cat((segment, segment[-1:].expand(short, -1, -1, -1)))
            latents = vae.encode(segment.transpose(0, 1)[None] * 2 - 1)
            decoded = torch.cat(list(vae.decode(latents)), dim=2)[0].transpose(0, 1)
            parts.append(decoded[SEGMENT.motion_frames if first else 0 : SEGMENT.frames - short])
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def measure_drawn(cases: Sequence[Case], vae: VideoVAE | None = None) -> list[Figures]:
    """Of cases drawn to their own speech; the control of single people is the next case's speech. With a
    ``vae`` of what it leaves of them."""
    settings = list_settings()
    results: list[Figures] = []
    for number, case in enumerate(cases):
        setting = settings[case.name]
        _, paths = make_paths(setting, [speaker.mouth for speaker in case.speakers])
        frames = to_tensor(draw_clip(setting.look, setting.cast, paths, 0.0, *SIZE))
        frames = frames if vae is None else pass_through(vae, frames)
        following = cases[(number + 1) % len(cases)].speakers[0]
        others = [other for other in cases if other is not case] if len(case.speakers) == 1 else []
        new, other = SEGMENT.new_frames, following.mouth
        results.append(measure_video(frames, case, new_frames=new, other=other, strangers=others))
    return results


def measure_answers(cases: Sequence[Case], prompts: Sequence[PromptCase], *, obey: bool) -> list[Obeyed]:
    """Of silent videos that obey the prompts, or show what the portrait shows."""
    settings, known = list_settings(), {case.name: case for case in cases}
    if not obey:
        plain = {name: draw_answer(settings[name], {}) for name in {each.name for each in prompts}}
        return [measure_prompt(plain[each.name], known[each.name], each) for each in prompts]
    return [
        measure_prompt(draw_answer(settings[each.name], _asked(each)), known[each.name], each)
        for each in prompts
    ]


def _asked(prompt: PromptCase) -> Mapping[str, Any]:
    kinds = ("ground", "weather", "light", "things", "look")
    return {kind: getattr(prompt, kind) for kind in kinds if getattr(prompt, kind)}


def main() -> None:
    parser = ArgumentParser(prog="training.truth", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--no-prompts", action="store_true")
    parser.add_argument("--vae", type=Path, metavar="RUN", help="measure what the VAE of this run leaves")
    options = parser.parse_args(sys.argv[1:])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    vae = None if options.vae is None else load_vae(options.vae, 0, BUILT_IN.vae, tuned_decoder=False)
    cases, prompts = read_cases(CASES, SEGMENT), read_prompts(CASES)
    rows: dict[str, dict[str, float]] = {}

    def add(name: str, figures: Mapping[str, float]) -> None:
        rows[name] = {key: round(value, 3) for key, value in figures.items() if value == value}
        print(name, json.dumps(rows[name]), flush=True)

    for kind in (singles(cases), pairs(cases)):
        drawn = measure_drawn(kind, vae)
        for case, each in zip(kind, drawn, strict=True):
            add(case.name, each.as_dict())
        add("people" if len(kind[0].speakers) == 1 else "pairs", summarize(drawn))
    if not options.no_prompts:
        _add_prompts(add, cases, prompts)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def _add_prompts(
    add: Callable[[str, Mapping[str, float]], None], cases: Sequence[Case], prompts: Sequence[PromptCase]
) -> None:
    answers = measure_answers(cases, prompts, obey=True)
    for prompt, row in zip(prompts, answers, strict=True):
        if not row.all:
            print(prompt, row)
    add("prompts", summarize_prompts(answers))
    add("prompts, by chance", summarize_prompts(measure_answers(cases, prompts, obey=False)))


if __name__ == "__main__":
    main()
