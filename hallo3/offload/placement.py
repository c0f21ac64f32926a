"""Put networks behind residencies under a memory plan or a manual offload, and stream their weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from ..checkpoints.load import check_file, load_strict, read_component, show_reading, verify_component
from ..checkpoints.locate import ModelFolder
from ..checkpoints.verify import FileVerifier
from ..config import COMPONENT_TITLES
from ..model.transformer import Trunk
from ..progress import OpenProgress, no_display
from ..quantization import Precision, add_missing_scales
from ..residency import DerivedModule
from ..text_encoder import TextEncoder, Tokenizer
from ..vae.autoencoder import VideoVAE
from ..vae.causal_conv import DecodePlan
from .estimate import DEVICE, DISK, RAM, OffloadConfig
from .streaming import ResidentModule, StreamableModule, StreamedModule, set_tensors, store_in_memory
from .weight_store import EMBEDDING, UNUSED, choose_resident, split_groups, split_text_groups, store_on_disk

N = TypeVar("N", bound=Trunk)
MANUAL_DECODE = DecodePlan(strips=8, caches="host")  # at whole height 7.9 GB
MANUAL_OFFLOADS = {
    "blocks": OffloadConfig(home=RAM, resident=0, passes="layer-major", decode=MANUAL_DECODE),
    "disk": OffloadConfig(home=DISK, resident=0, passes="layer-major", decode=MANUAL_DECODE),
}
"""``--offload``, without a memory plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Residencies of a model's networks. What a run needs only once is always streamed from disk."""

    files: ModelFolder
    device: torch.device
    precision: Precision
    verifier: FileVerifier | None
    config: OffloadConfig
    open_progress: OpenProgress = no_display

    def transformer(self, build: Callable[[], N]) -> AbstractContextManager[N]:
        """``build`` makes the network on meta."""
        home, count = self.config.home, self.config.resident
        if home == DEVICE:
            return ResidentModule(
                lambda: self._on_disk(build(), "transformer", count),
                self.device,
                show=lambda: self._show("transformer"),
            )
        load = self._in_memory if home == RAM else self._on_disk
        return StreamedModule(lambda: load(build(), "transformer", count), self.device)

    def reference(self, build: Callable[[], N]) -> AbstractContextManager[N]:
        return StreamedModule(
            lambda: self._on_disk(build(), "reference", resident=0),
            self.device,
            keep=False,
            show=lambda: self._show("reference"),
        )

    def text(
        self, tokenizer: Callable[[], Tokenizer], build: Callable[[], nn.Module]
    ) -> AbstractContextManager[TextEncoder]:
        def load() -> StreamableModule[nn.Module]:
            source = self.files.open("text_encoder")
            check_file(source, "text_encoder")
            t5, unquantized = build(), Precision(self.precision.name, self.precision.compute)
            set_tensors(t5, {UNUSED: torch.empty(0, dtype=unquantized.compute)})
            groups, names = split_text_groups(t5), {UNUSED: f"{EMBEDDING}.weight"}
            return store_on_disk(t5, groups, source, "text_encoder", unquantized, names=names)

        streamed = StreamedModule(load, self.device, keep=False, show=lambda: self._show("text_encoder"))
        return DerivedModule(streamed, lambda t5: TextEncoder(tokenizer(), t5))

    def vae(self, load: Callable[[], VideoVAE]) -> AbstractContextManager[VideoVAE]:
        """Small enough not to be split."""
        residency = ResidentModule[VideoVAE] if self.config.home == DEVICE else StreamedModule[VideoVAE]
        return residency(lambda: StreamableModule(load(), [], {}.__getitem__), self.device)

    def _on_disk(self, network: N, component: str, resident: int) -> StreamableModule[N]:
        self._verify(component)
        sequences, source = split_groups(network), self.files.open(component)
        groups = choose_resident(sequences[0], resident)
        return store_on_disk(network, sequences, source, component, self.precision, resident=groups)

    def _in_memory(self, network: N, component: str, resident: int) -> StreamableModule[N]:
        self._load(network, component)
        sequences, pinned = split_groups(network), self.device.type == "cuda"
        groups = choose_resident(sequences[0], resident)
        return store_in_memory(network, sequences, resident=groups, pinned=pinned)

    def _load(self, network: nn.Module, component: str) -> None:
        """A function of its own: no reference to the weights may outlive it (see ``store_in_memory``)."""
        source, shown = self.files.open(component), self.open_progress
        state = read_component(source, component, self.precision, self.verifier, shown)
        load_strict(network, add_missing_scales(network, state), COMPONENT_TITLES[component])

    def _show(self, component: str) -> AbstractContextManager[None]:
        self._verify(component)
        return show_reading(self.files.open(component), component, self.open_progress)

    def _verify(self, component: str) -> None:
        if self.verifier is not None:
            verify_component(self.files.open(component), self.verifier)
