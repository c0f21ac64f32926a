"""By what the job of a request is known: everything that decides the frames of its video."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..checkpoints.load import verify_component
from ..config import COMPONENTS
from ..face.arcface import FILE as RECOGNIZER
from ..face.arcface import SPACE
from ..face.mediapipe import in_use
from ..face.scrfd import FILE as DETECTOR
from ..jobs.render import NUMERICS
from ..settings import WHOLE, Settings
from ..storage.hashing import hash_facts, hash_file
from .request import Request

TOKENIZER = {".json", ".model", ".txt"}
"""Endings of a tokenizer's files."""


def key_of_video(request: Request, after: str) -> str:
    """Of everything that decides the frames; ``after`` is the link of what they go on from.

    How memory is saved is not among it: a run that ran out of memory is gone on with in less. Nor is an exact
    attention, which differs from others by rounding only; an approximate one is.
    """
    settings, listening = request.settings, request.listening.facts(request.plan)
    facts: dict[str, Any] = {
        "numerics": NUMERICS,
        "weights": _weights(request),
        "precision": request.precision.name,
        "device": request.device.type,
        **({} if request.attention.exact else {"attention": request.attention.name}),
        "speaker": request.speaker.facts(),
        "pasted": request.surroundings is not None,
        "speech": request.speech,
        **({"listening": listening} if listening else {}),
        "model": asdict(request.config),
        "prompt": request.options.prompt,
        "steps": settings.steps,
        "guidance": settings.guidance_scale,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "motion drop": settings.motion_drop,
        "posterior": settings.posterior,
        **_approximations(settings),
        "size": [request.width, request.height, request.enlarge],
        "encoding": request.encoding.facts(),
        "headers": request.headers(),
        "after": after,
    }
    return hash_facts(facts)


def _approximations(settings: Settings) -> dict[str, Any]:
    """Only those that are used: the key of a video without any stays what it was."""
    found: dict[str, Any] = {}
    if settings.guidance_interval != WHOLE:
        found["guidance interval"] = list(settings.guidance_interval)
    if settings.step_cache:
        found["step cache"] = [settings.step_cache, settings.step_cache_bound]
    return found


def _weights(request: Request) -> dict[str, list[str]]:
    unused = {"reference"} if request.speaker.saved else set[str]()
    if not request.options.prompt.strip():
        unused.add("text_encoder")
    needed = [part for part in COMPONENTS if part not in unused]
    found = {part: verify_component(request.files.find(part), request.examined) for part in needed}
    tokenizer = request.files.tokenizer
    if "text_encoder" in found and tokenizer.is_dir():
        small = [f for f in sorted(tokenizer.iterdir()) if f.suffix in TOKENIZER and f.is_file()]
        found["tokenizer"] = [hash_file(file) for file in small]
    if not request.speaker.saved and request.config.face.space == SPACE and request.files.faces is not None:
        networks = sorted(request.files.faces.rglob("*.onnx"))
        found["faces"] = [hash_file(file) for file in networks if file.name in (DETECTOR, RECOGNIZER)]
        landmarks = in_use(request.files.faces)
        if landmarks is not None:
            found["landmarks"] = [hash_file(landmarks[0]), landmarks[1]]
    if request.vocals is not None:
        found["vocals"] = [hash_file(request.vocals)]
    return found
