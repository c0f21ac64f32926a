"""``python -m training all --out DIR``: from nothing to the built-in model's files; every stage goes on where
it was stopped."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)

import torch

from hallo3.config import BUILT_IN

from . import clips, diffusion, export, hearing, sheets, vae, voices

UTTERANCES = {"train": 320, "held-out": 60}
CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "behaviour"
HEARING_STEPS, CHUNKS, DIFFUSION_STEPS = 1000, 14, 2600


def speak(options: Namespace) -> None:
    """Speech to learn from and to be tested by."""
    for split, count in UTTERANCES.items():
        voices.synthesise(options.out / "voices", count, split, options.workers)


def listen(options: Namespace) -> None:
    """The speech encoder."""
    trained = hearing.train_hearing(options.out, options.seed, HEARING_STEPS)
    paths = sorted((options.out / "voices" / "held-out").glob("*.wav"))
    _note(options, "hearing", hearing.evaluate(trained, paths))


def compress(options: Namespace) -> None:
    """The VAE."""
    vae.train_vae(options.out, options.seed, BUILT_IN.vae, BUILT_IN.segment.height, device=options.device)


def sharpen(options: Namespace) -> None:
    """The VAE's decoder, alone."""
    vae.train_decoder(options.out, options.seed, BUILT_IN.vae, BUILT_IN.segment.height, device=options.device)


def encode(options: Namespace) -> None:
    """Clips to learn from, encoded by the finished encoders."""
    wanted = [index for index in range(CHUNKS) if not clips.chunk_path(options.out, index).exists()]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        jobs = [pool.submit(clips.make_chunk, options.out, options.seed, index, BUILT_IN) for index in wanted]
        for job in jobs:
            print("clips", json.dumps(job.result()), flush=True)


def diffuse(options: Namespace) -> None:
    """Transformer, reference network and text encoder."""
    known = clips.load_clips(options.out, CHUNKS)
    diffusion.train_diffusion(options.out, options.seed, BUILT_IN, known, DIFFUSION_STEPS, options.device)


def write(options: Namespace) -> None:
    """The model folder."""
    export.write_model(export.finished(options.out, options.seed, BUILT_IN), options.out / "model")


def look(options: Namespace) -> None:
    """Pictures of the run: its curves, and held-out people next to their portraits."""
    sheets.curves(options.out, [hearing.NAME, vae.VAE, diffusion.NAME, vae.DECODER]).save(
        options.out / "curves.png"
    )
    sheets.people(options.out / "model", CASES).save(options.out / "people.png")


STAGES: dict[str, Callable[[Namespace], None]] = {
    "voices": speak,
    "hearing": listen,
    "vae": compress,
    "clips": encode,
    "diffusion": diffuse,
    "decoder": sharpen,
    "export": write,
    "look": look,
}


def _note(options: Namespace, name: str, figures: dict[str, float]) -> None:
    text = json.dumps({key: round(value, 4) for key, value in figures.items()})
    (options.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(name, text, flush=True)


def main() -> None:
    """Run a stage, or all of them in order."""
    parser = ArgumentParser(prog="training", description=__doc__)
    parser.add_argument("stage", choices=["all", *STAGES])
    parser.add_argument("--out", type=Path, required=True, help="folder for everything, kept between calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device",
        type=torch.device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="where vae, diffusion and decoder learn; speech encoder and clips are the CPU's",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make clips")
    options = parser.parse_args(sys.argv[1:])
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in STAGES if options.stage == "all" else [options.stage]:
        STAGES[name](options)


if __name__ == "__main__":
    main()
