"""The networks of a run, loaded when the first segment is to be rendered and not before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from ..attention import Watched
from ..built_in import FOLDER
from ..face.registry import SimilarityFunction, create_analyzer, similarity_to, unknown_similarity
from ..identity import Identity, Provenance
from ..identity_file import fingerprint_in, write_identity
from ..jobs.render import derive_seed
from ..loading import load_models
from ..model.kernels.select import KernelChoice, choose_kernels
from ..models import Models
from ..noise import make_noise
from ..pipeline import Rendered, Watch, encode_prompt, extract_identity, prepare, render_segment
from ..segments import Segment
from .request import Request, approximations_in
from .speech import Ear
from .vram import keep_ceiling

SPEECH = "speech"


class Performer:
    """Renders any segment of a request. Weights load when that is asked for the first time."""

    def __init__(self, request: Request, folder: Path, after: str, watch: Watch) -> None:
        self._request, self._folder, self._after, self._watch = request, folder, after, watch
        self._drawn: Callable[[Segment, Tensor, int], Rendered] | None = None
        self._ear = Ear(request, folder / SPEECH)
        self._face: SimilarityFunction = unknown_similarity
        self._attention = Watched(request.attention)

    def draw(self, segment: Segment, motion: Tensor, take: int) -> Rendered:
        """One segment, going on from motion frames [1, 3, m, H, W]."""
        if self._drawn is None:
            self._drawn = self._begin()
        return self._drawn(segment, motion, take)

    def likeness(self, frame: Tensor) -> float | None:
        """How alike the face in a frame [3, h, w] and the portrait's are, 1 being the same; None where nobody
        can tell."""
        return self._face(frame)

    @property
    def ran(self) -> str:
        """Which attention and kernels computed; empty if nothing did."""
        if not self._attention.ran:
            return ""
        kernels, why = self._kernels
        return f"attention by {self._attention.ran}; {kernels.name} kernels" + (f" ({why})" if why else "")

    @cached_property
    def _kernels(self) -> KernelChoice:
        request = self._request
        if request.tried:
            return request.kernels
        return choose_kernels(request.options.kernels, request.device, request.precision.compute)

    def speech_chart(self) -> Tensor:
        """A picture [3, h, w] of the recording as it is listened to."""
        return self._ear.chart()

    @cached_property
    def identity(self) -> Identity:
        """Who speaks: as it was saved, or by the reference network."""
        request = self._request
        speaker, settings = request.speaker, request.settings
        if speaker.saved is not None:
            return speaker.saved
        assert speaker.portrait is not None  # there is no third answer
        noise = make_noise(derive_seed(settings.seed, 0, self._after))
        made = Provenance(request.precision.name, approximations_in(request.precision, request.attention))
        return replace(extract_identity(speaker.portrait, self._models, settings, noise), made=made)

    def save_identity(self, path: Path) -> None:
        """Who speaks, in a file. Raises ``OutputError``."""
        write_identity(self.identity, fingerprint_in(self._request.files.transformer), path)

    @cached_property
    def _models(self) -> Models:
        request = self._request
        keep_ceiling(request)
        return load_models(
            request.files,
            request.device,
            request.precision,
            offload=request.offload,
            memory=request.memory,
            attention=self._attention,
            kernels=self._kernels.kernels,
            examined=request.examined,
            extract=request.speaker.saved is None,
        )

    def _begin(self) -> Callable[[Segment, Tensor, int], Rendered]:
        request, settings = self._request, self._request.settings
        if request.options.model.resolve() == FOLDER:
            tqdm.write("note: the built-in model has learned drawn faces only, not photographs.", sys.stderr)
        models = self._models
        noise = make_noise(derive_seed(settings.seed, 0, self._after))
        speech = self._ear.listen(models)
        prompt = encode_prompt(request.options.prompt, models)
        identity = self.identity
        stages = prepare(identity, speech, prompt, models, settings, noise, self._watch)
        if not request.speaker.saved:
            analyzer = create_analyzer(models.config.face, request.files.faces)
            self._face = similarity_to(identity.face_embedding, analyzer)

        def draw(segment: Segment, motion: Tensor, take: int) -> Rendered:
            drawn = make_noise(derive_seed(settings.seed, take, self._after))
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
