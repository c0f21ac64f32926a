"""The stages of training, by name."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from hallo3.config import BUILT_IN
from hallo3.face.detector import WEIGHTS

from . import clips, detector, diffusion, export, sheets, speech_encoder, vae, voices

UTTERANCES = {"train": 320, "held-out": 60}
CASES = Path(__file__).resolve().parents[1] / "tests" / "data" / "behaviour"
SPEECH_ENCODER_STEPS, CHUNKS, DIFFUSION_STEPS = 1000, 30, 6000
SIZE = BUILT_IN.segment.height, BUILT_IN.segment.width


def synthesise_voices(options: Namespace) -> None:
    for split, count in UTTERANCES.items():
        voices.synthesise(options.out / "voices", count, split, options.workers)


def train_speech_encoder(options: Namespace) -> None:
    model = speech_encoder.train_speech_encoder(options.out, options.seed, SPEECH_ENCODER_STEPS)
    figures = speech_encoder.evaluate(model, sorted((options.out / "voices" / "held-out").glob("*.wav")))
    text = json.dumps({key: round(value, 4) for key, value in figures.items()})
    (options.out / "hearing.json").write_text(text + "\n", encoding="utf-8")
    print("hearing", text, flush=True)


def train_vae(options: Namespace) -> None:
    vae.train_vae(options.out, options.seed, BUILT_IN.vae, SIZE, device=options.device)


def train_decoder(options: Namespace) -> None:
    vae.train_decoder(options.out, options.seed, BUILT_IN.vae, SIZE, device=options.device)


def encode_clips(options: Namespace) -> None:
    missing = [index for index in range(CHUNKS) if not clips.chunk_path(options.out, index).exists()]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        jobs = [
            pool.submit(clips.make_chunk, options.out, options.seed, index, BUILT_IN) for index in missing
        ]
        for job in jobs:
            print("clips", json.dumps(job.result()), flush=True)


def train_diffusion(options: Namespace) -> None:
    dataset = clips.load_clips(options.out, CHUNKS)
    diffusion.train_diffusion(options.out, options.seed, BUILT_IN, dataset, DIFFUSION_STEPS, options.device)


def train_detector(options: Namespace) -> None:
    detector.train_detector(options.out, options.seed)


def export_model(options: Namespace) -> None:
    model = export.load_trained_model(options.out, options.seed, BUILT_IN)
    export.write_model(model, options.out / "model")
    export.write_detector(
        detector.load_detector(options.out, options.seed), options.out / "model" / WEIGHTS.name
    )


def draw_sheets(options: Namespace) -> None:
    names = [speech_encoder.NAME, vae.VAE, diffusion.NAME, vae.DECODER, detector.NAME]
    sheets.plot_curves(options.out, names).save(options.out / "curves.png")
    sheets.render_people(options.out / "model", CASES).save(options.out / "people.png")


STAGES: dict[str, Callable[[Namespace], None]] = {
    "voices": synthesise_voices,
    "hearing": train_speech_encoder,
    "vae": train_vae,
    "clips": encode_clips,
    "diffusion": train_diffusion,
    "decoder": train_decoder,
    "faces": train_detector,
    "export": export_model,
    "look": draw_sheets,
}
SHARED = {"vae", "diffusion", "decoder"}
