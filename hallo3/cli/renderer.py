"""The networks of a request and what they extract from its inputs, each loaded or computed when first
used."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ..attention_backend import AUTO
from ..built_in import FOLDER
from ..face.registry import SimilarityFunction, create_analyzer, similarity_to, unknown_similarity
from ..identity import Identity, Provenance
from ..identity_file import fingerprint_in, write_identity
from ..jobs.video_job import derive_seed
from ..loading import load_models
from ..messages import logger
from ..models import Models
from ..noise import make_noise
from ..offload.system_memory import limit_torch
from ..pipeline import LocalRenderer, encode_prompt, extract_identity
from .progress import WorkClock
from .request import AnimateRequest
from .speech import SpeechFeatures


class RunNetworks:
    """``folder`` keeps the recording's features; ``parent_state`` is that of the video to continue."""

    def __init__(self, request: AnimateRequest, folder: Path, parent_state: str) -> None:
        self._request = request
        self._noise = make_noise(derive_seed(request.settings.seed, 0, parent_state))
        self.speech = SpeechFeatures(request, folder)
        self.clock = WorkClock()

    @cached_property
    def models(self) -> Models:
        request = self._request
        if request.options.model.resolve() == FOLDER:
            logger.warning("the built-in model knows drawn faces only, not photographs.")
        memory = request.memory
        if memory is not None and memory.manual and request.device.type == "cuda":
            limit_torch(memory.torch_limit, request.device)
            memory = None
        return load_models(
            request.files,
            request.device,
            request.precision,
            offload=request.offload,
            memory=memory,
            attention=request.attention.attend,
            kernels=request.kernels.kernels,
            verifier=request.verifier,
            extract=request.subject.identity is None,
            open_progress=self.clock.show_bytes,
        )

    @cached_property
    def identity(self) -> Identity:
        request = self._request
        if request.subject.identity is not None:
            return request.subject.identity
        identity = extract_identity(
            request.subject.portrait,
            self.models,
            request.settings,
            self._noise,
            keep_photograph=request.options.save_identity is not None,
        )
        return replace(identity, provenance=Provenance(request.precision.name, request.approximations))

    def save_identity(self, path: Path) -> None:
        """Raises ``OutputError``."""
        write_identity(self.identity, fingerprint_in(self._request.files.open("transformer")), path)

    def prepare_renderer(self) -> LocalRenderer:
        speech = self.speech.compute(self.models)
        prompt = encode_prompt(self._request.options.prompt, self.models)
        return LocalRenderer.prepare(self.identity, speech, prompt, self.models, self._request.settings)

    @cached_property
    def similarity(self) -> SimilarityFunction:
        """How similar a rendered face is to the portrait's; unknown for a saved identity."""
        if self._request.subject.identity is not None:
            return unknown_similarity
        unverified = self._request.options.faces_unverified
        analyzer = create_analyzer(self.models.config.face, self._request.files.faces, unverified=unverified)
        return similarity_to(self.identity.face_embedding, analyzer)

    def describe(self) -> str:
        kernels, reason = self._request.kernels
        used = self._request.attention
        attention = "torch (automatic)" if used is AUTO else used.title
        return f"attention by {attention}; {kernels.name} kernels" + (f" ({reason})" if reason else "")
