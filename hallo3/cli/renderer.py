"""The networks of a request, what they extract from its inputs and how they render its segments, each loaded
or computed when first used. If memory runs out, all of it but what is extracted begins again with less."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..attention_backend import AUTO
from ..built_in import FOLDER
from ..errors import describe_error, is_out_of_ram
from ..face.registry import SimilarityFunction, create_analyzer, similarity_to, unknown_similarity
from ..identity import Identity, Provenance
from ..identity_file import fingerprint_in, write_identity
from ..jobs.job import MEMORY, METHODS
from ..jobs.video_job import derive_seed
from ..loading import load_models
from ..messages import logger
from ..model.layers import sdpa
from ..models import Models
from ..noise import Noise, make_noise
from ..offload.system_memory import limit_torch
from ..pipeline import LocalRenderer, WatchProgress, encode_prompts, extract_identity
from ..progress import no_progress
from ..residency import SHARES, release_memory, try_again
from ..segments import Segment
from ..units import format_bytes
from .memory import advise_less_memory, shrink_memory
from .request import AnimateRequest
from .session import IDENTITY, MODELS
from .speech import SpeechFeatures


class RunNetworks:
    """A renderer. ``folder`` keeps the recording's features; ``parent_state`` is that of the video to
    continue. ``watch`` follows the steps."""

    def __init__(self, request: AnimateRequest, folder: Path, parent_state: str) -> None:
        self._request, self.watch = request, cast(WatchProgress, no_progress)
        self._shares, self._caps = [*SHARES], dict[str, int]()
        self._seed = derive_seed(request.settings.seed, 0, parent_state)
        self._noise = make_noise(self._seed)
        self.speech = SpeechFeatures(request, folder)
        self.clock = request.session.clock

    @property
    def _models_key(self) -> tuple[object, ...]:
        """Everything that decides what is loaded, and how."""
        request = self._request
        hashes = json.dumps(request.weight_hashes(), sort_keys=True)
        computing = request.precision, request.attention.name, request.kernels.kernels.name
        placing = request.offload, request.memory, request.subject.identity is None
        return request.files.path, hashes, request.config, str(request.device), *computing, *placing

    @cached_property
    def models(self) -> Models:
        """Those of the session, if it has the same."""
        return self._request.session.keep(MODELS, self._models_key, self._load)

    def _load(self) -> Models:
        request = self._request
        if request.options.model.resolve() == FOLDER:
            logger.warning("the built-in model knows drawn faces only, not photographs.")
        memory = request.memory
        if memory is not None and memory.manual and request.device.type == "cuda":
            limit_torch(memory.torch_limit, request.device)
            memory = None
        used = request.attention
        only_one = used is AUTO and request.device.type != "cuda"
        return load_models(
            request.files,
            request.device,
            request.precision,
            offload=request.offload,
            memory=memory,
            attention=sdpa if only_one else used.attend,
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
        photograph, posterior = request.options.save_identity is not None, request.settings.posterior
        facts = json.dumps(request.subject.facts()), photograph, posterior, torch.get_num_threads()
        seed = 0 if posterior == "mean" else self._seed
        return request.session.keep(IDENTITY, (self._models_key, facts, seed), self._extract)

    def _extract(self) -> Identity:
        request, saved = self._request, self._request.options.save_identity is not None
        portrait, settings = request.subject.portrait, request.settings
        identity = extract_identity(portrait, self.models, settings, self._noise, keep_photograph=saved)
        return replace(identity, provenance=Provenance(request.precision.name, request.approximations))

    def save_identity(self, path: Path) -> None:
        """Raises ``OutputError``."""
        write_identity(
            try_again(lambda: self.identity, self),
            fingerprint_in(self._request.files.open("transformer")),
            path,
        )

    @cached_property
    def _prompts(self) -> list[Tensor]:
        return encode_prompts(self._request.prompts, self.models)

    @cached_property
    def _renderer(self) -> LocalRenderer:
        if self._request.subject.identity is None:
            _ = self._request.subject.portrait  # refused before hours of speech are encoded
        speech, prompts = self.speech.compute(self.models), self._prompts
        settings = self._request.settings
        return LocalRenderer.prepare(
            self.identity, speech, prompts, self.models, settings, lambda progress: self.watch(progress)
        )

    def prepare(self) -> None:
        """All that comes before the first segment."""
        _ = try_again(lambda: self._renderer, self)

    @property
    def encode(self) -> Callable[[Tensor, Segment, Noise], Tensor]:
        return self._renderer.encode

    @property
    def sample(self) -> Callable[[Tensor, Segment, Noise], Tensor]:
        return self._renderer.sample

    @property
    def decode(self) -> Callable[[Tensor], Iterator[Tensor]]:
        return self._renderer.decode

    def shrink(self, error: Exception, stage: str) -> bool:
        """At most twice; says what was wanted, and the plan before and after."""
        before, device = self._request.memory, self._request.device
        found = describe_error(error)
        if device.type == "cuda":
            found += f" At most {format_bytes(torch.cuda.max_memory_allocated(device))} were allocated."
        for name in ("models", "_renderer"):
            self.__dict__.pop(name, None)
        self._request.session.drop(MODELS)
        release_memory()
        share, smaller = self._shares.pop(0) if self._shares else 0.0, None
        if share:
            in_ram = is_out_of_ram(error)
            smaller = shrink_memory(self._request, share, stage, self._caps, in_ram=in_ram)
        where = f"out of memory in the stage {stage}" if stage else "out of memory"
        if before is None or smaller is None or smaller.memory is None:
            logger.warning(f"{where}, and no smaller plan is left: {advise_less_memory(self._request)}")
            return False
        self._request = smaller
        self._caps |= {each.name: each.total for each in smaller.memory.stages if each.name == stage}
        logger.warning(
            f"{where}: {found} It was planned for {format_bytes(before.limit)}: {before.line()}. "
            f"Again, with {100 * share:g} % of that: {smaller.memory.line()}."
        )
        return True

    @property
    def throughput_key(self) -> str:
        """Under the plan in force."""
        return self._request.throughput_key

    def describe_ways(self) -> dict[str, str]:
        """How memory is planned, empty without a plan, and what computes, in words."""
        memory = self._request.memory.line() if self._request.memory else ""
        return {MEMORY: memory, METHODS: self.describe_methods()}

    @cached_property
    def similarity(self) -> SimilarityFunction:
        """How similar a rendered face is to the portrait's; unknown for a saved identity."""
        if self._request.subject.identity is not None or self._request.speakers > 1:
            return unknown_similarity
        unverified = self._request.options.faces_unverified
        analyzer = create_analyzer(self.models.config.face, self._request.files.faces, unverified=unverified)
        return similarity_to(self.identity.face_embedding, analyzer)

    def describe_methods(self) -> str:
        used = self._request.attention
        attention = "torch (automatic)" if used is AUTO else used.title
        return f"attention by {attention}; {self._request.kernels.kernels.name} kernels"

    def describe(self) -> str:
        reason = self._request.kernels.reason
        return self.describe_methods() + (f" ({reason})" if reason else "")
