"""Networks that come to the device as they are needed, from memory or disk, under an offload or a memory
plan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..checkpoints.component_config import check_file
from ..checkpoints.load import load_strict, read_component, verify_component
from ..checkpoints.locate import ModelFolder
from ..checkpoints.verify import FileVerifier
from ..config import COMPONENT_TITLES
from ..model.transformer import Trunk
from ..quantization.precision import Precision, add_missing_scales
from ..residency import DerivedModule
from ..text_encoder import TextEncoder, Tokenizer
from ..vae.autoencoder import VideoVAE
from ..vae.tiling import DecodePlan
from .estimate import DEVICE, DISK, MEMORY, OffloadConfig
from .streaming import ResidentModule, StreamableModule, StreamedModule, WeightGroup, in_memory
from .weight_store import choose_resident, on_disk, split_groups, text_on_disk

N = TypeVar("N", bound=Trunk)
M = TypeVar("M", bound=nn.Module)
DECODE = DecodePlan(strips=8, caches="host")
"""A decode by hand: 7.9 GB of the released model's are on the device at whole height."""
OFFLOADS = {
    "blocks": OffloadConfig(home=MEMORY, staying=0, passes="layer-major", decode=DECODE),
    "disk": OffloadConfig(home=DISK, staying=0, passes="layer-major", decode=DECODE),
}
"""What an offload means where there is no plan. On the CPU, where there is one memory, the whole height of a
video is decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the networks of a model's ``files`` stand under an ``arrangement``. What a run needs once comes
    from disk, item by item, in any case: it is read once."""

    files: ModelFolder
    device: torch.device
    precision: Precision
    examined: FileVerifier | None
    arrangement: OffloadConfig

    def transformer(self, build: Callable[[], N]) -> AbstractContextManager[N]:
        """The network that every segment needs; ``build`` makes it on meta."""
        home, staying = self.arrangement.home, self.arrangement.staying
        if home == DEVICE:
            return ResidentModule(lambda: self._on_disk(build(), "transformer", staying), self.device)
        fetch = self._in_memory if home == MEMORY else self._on_disk
        return StreamedModule(lambda: fetch(build(), "transformer", staying), self.device)

    def once(self, build: Callable[[], N], part: str) -> AbstractContextManager[N]:
        """A network that is needed once. None of its blocks stay: the arrangement's are the transformer's."""
        return StreamedModule(lambda: self._on_disk(build(), part, staying=0), self.device, keep=False)

    def text(
        self, tokenizer: Callable[[], Tokenizer], build: Callable[[], nn.Module]
    ) -> AbstractContextManager[TextEncoder]:
        """T5's encoder, half a block at a time."""

        def load() -> StreamableModule[nn.Module]:
            self._look("text_encoder")
            check_file(self.files.text_encoder, "text_encoder")
            plain = Precision(self.precision.name, self.precision.compute)
            return text_on_disk(build(), self.files.text_encoder, plain)

        streamed = StreamedModule(load, self.device, keep=False)
        return DerivedModule(streamed, lambda t5: TextEncoder(tokenizer(), t5))

    def vae(self, load: Callable[[], VideoVAE]) -> AbstractContextManager[VideoVAE]:
        """The VAE: small enough to come whole."""

        def stored() -> StreamableModule[VideoVAE]:
            return StreamableModule(load(), [], _bare)

        if self.arrangement.home == DEVICE:
            return ResidentModule(stored, self.device)
        return StreamedModule(stored, self.device)

    def _on_disk(self, network: N, part: str, staying: int) -> StreamableModule[N]:
        self._look(part)
        rows = split_groups(network)
        stay = choose_resident(rows[0], staying)
        return on_disk(network, rows, self.files.find(part), part, self.precision, staying=stay)

    def _in_memory(self, network: N, part: str, staying: int) -> StreamableModule[N]:
        self._fill(network, part)
        rows = split_groups(network)
        stay = choose_resident(rows[0], staying)
        return in_memory(network, rows, staying=stay, locked=self.device.type == "cuda")

    def _fill(self, network: nn.Module, part: str) -> None:
        """Give a network its weights, and keep no name of theirs: they go when they are taken out of it."""
        state = read_component(self.files.find(part), part, self.precision, self.examined)
        load_strict(network, add_missing_scales(network, state), COMPONENT_TITLES[part])

    def _look(self, part: str) -> None:
        if self.examined is not None:
            verify_component(self.files.find(part), self.examined)


def _bare(item: WeightGroup) -> dict[str, Tensor]:
    """The shelf of a network without items."""
    raise KeyError(item)
