"""The networks of a run, loaded when the first segment is to be rendered and not before."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..audio.anatomy import anatomy_of
from ..audio.speech import Speech
from ..audio.spool import Spool, write_spool
from ..audio.streamed import encode_streamed, read_layers
from ..built_in import FOLDER
from ..face.analysis import analyze
from ..face.likeness import Likeness, likeness_to, nobody_can_tell
from ..face.spaces import analyzer_for
from ..journal.key import content_of
from ..kept import seed_of
from ..load import load_models
from ..media.long_sound import stream_mono
from ..models import Models
from ..noise import seeded_noise
from ..pipeline import Rendered, encode_prompt, identify, render_segment
from ..segments import Segment
from ..stages import Watch, prepare
from ..storage.whole import write_whole
from .request import Request

SPEECH, HEARD = "speech", "heard.json"


class Performer:
    """Renders any segment of a request. Weights load when that is asked for the first time."""

    def __init__(self, request: Request, folder: Path, after: str, watch: Watch) -> None:
        self._request, self._folder, self._after, self._watch = request, folder, after, watch
        self._drawn: Callable[[Segment, Tensor, int], Rendered] | None = None
        self._face: Likeness = nobody_can_tell

    def draw(self, segment: Segment, motion: Tensor, take: int) -> Rendered:
        """One segment, going on from motion frames [1, 3, m, H, W]."""
        if self._drawn is None:
            self._drawn = self._begin()
        return self._drawn(segment, motion, take)

    def likeness(self, frame: Tensor) -> float | None:
        """How alike the face in a frame [3, h, w] and the portrait's are, 1 being the same; None where nobody
        can tell."""
        return self._face(frame)

    def _begin(self) -> Callable[[Segment, Tensor, int], Rendered]:
        request, settings = self._request, self._request.settings
        if request.options.model.resolve() == FOLDER:
            tqdm.write("note: the built-in model has learned drawn faces only, not photographs.", sys.stderr)
        models = load_models(
            request.files,
            request.device,
            request.precision,
            offload=request.offload,
            examined=request.examined,
            choice=request.choice,
        )
        noise = seeded_noise(seed_of(settings.seed, 0, self._after))
        face = analyze(request.portrait, models.face, models.config.face)
        speech = listen(request, models, self._folder / SPEECH)
        prompt = encode_prompt(request.options.prompt, models)
        identity = identify(request.portrait, face, models, settings, noise)
        stages = prepare(identity, speech, prompt, models, settings, noise, self._watch)
        self._face = likeness_to(face.embedding, analyzer_for(models.config.face, request.files.faces))

        def draw(segment: Segment, motion: Tensor, take: int) -> Rendered:
            drawn = seeded_noise(seed_of(settings.seed, take, self._after))
            mine = replace(stages, noise=drawn)
            return render_segment(
                identity.canvas.pixels,
                motion,
                segment,
                encode=mine.encode,
                sample=mine.sample,
                decode=mine.decode,
                noise=drawn,
                motion_drop=settings.motion_drop,
            )

        return draw


def listen(request: Request, models: Models, folder: Path) -> Speech:
    """The recording's features, on disk in ``folder``. Layers that are there as they were written are used;
    the first time, and after a stop, the others are computed."""
    plan, config = request.plan, models.config
    rate, width = config.segment.sample_rate, config.audio.channels
    layers = [Spool(folder / f"layer_{n:02}.f32", plan.padded, width) for n in range(config.audio.layers)]
    heard = _sound(folder, layers)
    if len(heard) < len(layers):
        _clear(folder, set(heard))
        pieces = (piece[:, None] for piece in stream_mono(request.options.speech, rate, request.sound))
        samples = write_spool(folder / "mono.f32", pieces, 1)
        request.check_speech()
        with models.speech as wav2vec2, tqdm(total=1.0, desc="listening", leave=False, bar_format=BAR) as bar:

            def watch(done: int, total: int) -> None:
                bar.update(done / total - bar.n)
                for layer in layers[len(heard) :]:
                    if layer.complete:
                        _note(folder, heard, layer)

            device = next(wav2vec2.parameters()).device
            encode_streamed(anatomy_of(wav2vec2), samples, plan, device, folder, watch)
        samples.remove()
        for layer in layers[len(heard) :]:
            _note(folder, heard, layer)
    return Speech(read_layers(layers), plan, config.audio.window)


def _note(folder: Path, heard: dict[str, str], layer: Spool) -> None:
    """Write down the hash of a layer that is complete."""
    heard[layer.path.name] = content_of(layer.path)
    write_whole(folder / HEARD, [json.dumps(heard).encode()])


def _clear(folder: Path, but: set[str]) -> None:
    """Take away what cannot be told to be sound."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in but:
                path.unlink()


BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"


def _sound(folder: Path, layers: list[Spool]) -> dict[str, str]:
    """Hashes of the first layers that are there as they were written."""
    found: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        said: Any = json.loads((folder / HEARD).read_text(encoding="utf-8"))
        for layer in layers:
            if not layer.complete or said[layer.path.name] != content_of(layer.path):
                break
            found[layer.path.name] = said[layer.path.name]
    return found
