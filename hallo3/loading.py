"""Load a model folder: headers at once, weights when a network is first used. Each network is put behind a
residency, under a memory plan or a manual offload."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from .attention_backend import AUTO
from .checkpoints.component import find_component
from .checkpoints.load import (
    build_on_meta,
    check_belongs,
    check_file,
    load_strict,
    read_component,
    read_component_config,
    read_model_config,
    read_text_encoder_config,
    show_reading,
    verify_component,
)
from .checkpoints.locate import ModelFolder
from .checkpoints.source import CheckpointSource
from .checkpoints.verify import FileVerifier
from .config import COMPONENT_TITLES, Hallo3Config, SegmentConfig
from .errors import InputError, describe_error
from .face.analyzer import NoFaceAnalyzer
from .face.registry import create_analyzer
from .face.selection import FaceChoice
from .messages import logger
from .model.kernels.eager import PLAIN, Kernels
from .model.layers import Attention
from .model.transformer import Hallo3Transformer, ReferenceNetwork, Trunk
from .models import Models
from .offload.budget import MemoryPlan, smaller_precisions
from .offload.estimate import DEVICE, DISK, RAM, OffloadConfig
from .offload.streaming import ResidentModule, StreamableModule, StreamedModule, set_tensors, store_in_memory
from .offload.system_memory import limit_torch
from .offload.weight_store import (
    AUDIO_KERNEL,
    EMBEDDING,
    UNUSED,
    choose_resident,
    split_for_disk,
    split_groups,
    split_text_groups,
    store_on_disk,
)
from .progress import OpenProgress, no_display
from .quantization import FP8, PRECISIONS, Precision, add_missing_scales, check_device, get_precision
from .residency import CPU, ChosenModule, DerivedModule, OnDemandModule, release_memory
from .text_encoder import TextEncoder, Tokenizer, tie_embedding
from .vae.autoencoder import DEFAULT_PLAN, VideoVAE, build_vae
from .vae.causal_conv import DecodePlan

N = TypeVar("N", bound=Trunk)
M = TypeVar("M", bound=nn.Module)
WHOLE_BYTES = 1_000_000_000  # smaller files are loaded whole where nothing is offloaded
MANUAL_DECODE = DecodePlan(strips=8, caches="host")  # at whole height 7.9 GB
MANUAL_OFFLOADS = {
    "none": None,
    "blocks": OffloadConfig(home=RAM, resident=0, passes="layer-major", decode=MANUAL_DECODE),
    "disk": OffloadConfig(home=DISK, resident=0, passes="layer-major", decode=MANUAL_DECODE),
}
"""``--offload``, without a memory plan."""


def load_models(
    folder: Path | ModelFolder,
    device: torch.device,
    precision: Precision | torch.dtype | str,
    *,
    offload: str = "none",
    memory: MemoryPlan | None = None,
    attention: Attention = AUTO.attend,
    kernels: Kernels = PLAIN,
    verifier: FileVerifier | None = None,
    choice: FaceChoice | None = None,
    extract: bool = True,
    segment: SegmentConfig | None = None,
    open_progress: OpenProgress = no_display,
) -> Models:
    """The networks of a model folder. All headers are checked here, those of the text encoder at the first
    prompt; weights load on first use.

    ``precision`` is also a name (``fp32``, ``bf16``, ``fp16``, ``fp8``) or a torch type; the speech encoder
    computes in float32, as in the original. ``offload`` says where the weights of transformer and reference
    network are while they are not used: on the device (``none``), in RAM (``blocks``) or on disk (``disk``);
    results are equal. A ``memory`` plan replaces it, and plans the decoder too. ``choice`` selects a face of
    a photograph. A ``verifier`` checks files before their first use: checksums, NaN. Without ``extract``,
    reference network and face analyzer are not needed, and no identity can be extracted. A ``segment`` is a
    smaller canvas, or fewer frames, than the model's own. ``open_progress`` shows the bytes of weights that
    are read, and that prepare a run.

    Where memory runs out in a stage of ``animate``, these models take less from then on: without a plan as
    with the next ``offload``, on a CPU ``disk``. It says so; with nothing smaller the error is raised.

    Raises ``CheckpointError`` for missing, foreign or contradicting files, ``FaceError`` if no analyzer has
    the model's embedding space, ``InputError`` for a device that does not support the precision,
    ``ShapeError`` for a segment larger than the model's.
    """
    files = ModelFolder(folder) if isinstance(folder, Path) else folder
    files = files if segment is None else replace(files, segment=segment)
    precision = get_precision(precision)
    check_device(precision, device)
    if memory is not None and device.type == "cuda":
        limit_torch(memory.torch_limit, device)
    config = read_model_config(files.open("transformer"))
    for name in ("reference", "vae", "speech_encoder") if extract else ("vae", "speech_encoder"):
        check_belongs(files.open(name), name, config)
    speech = read_component_config(files.open("speech_encoder"), "speech_encoder")
    for name in ("transformer", "reference") if extract else ("transformer",):
        check_file(files.open(name), name)
    layers = replace(precision.layers("meta"), attention=attention, kernels=kernels)

    @cache
    def text() -> tuple[dict[str, Any], Tokenizer]:
        """At the first prompt: others need no T5."""
        with open_progress("reading the tokenizer", 0):
            return read_text_encoder(files, config)

    latent = config.segment.shape.latent

    def place(placed: OffloadConfig | None) -> PlacedNetworks:
        if placed:
            check_fp8_on_disk(files, precision, placed.home)
        placement = Placement(
            files=files,
            device=device,
            precision=precision,
            verifier=verifier,
            config=placed,
            open_progress=open_progress,
        )
        return PlacedNetworks(
            speech=OnDemandModule(
                lambda: placement.load(build_on_meta("speech_encoder", speech), "speech_encoder").to(device)
            ),
            text=placement.text(lambda: text()[1], lambda: build_on_meta("text_encoder", text()[0])),
            vae=placement.vae(partial(build_vae, config.vae)),
            reference=placement.reference(partial(ReferenceNetwork, config.trunk, latent, layers)),
            transformer=placement.transformer(partial(Hallo3Transformer, config, layers)),
        )

    networks = ShrinkingNetworks(place, device, precision, offload, memory)
    return Models(
        config=config,
        face=create_analyzer(config.face, files.faces, choice=choice)
        if extract
        else NoFaceAnalyzer(config.face.space),
        speech=ChosenModule(lambda: networks.placed.speech),
        text=ChosenModule(lambda: networks.placed.text),
        vae=ChosenModule(lambda: networks.placed.vae),
        reference=ChosenModule(lambda: networks.placed.reference),
        transformer=ChosenModule(lambda: networks.placed.transformer),
        open_progress=open_progress,
        shrink=networks.shrink,
        passes=lambda: networks.passes,
    )


def read_text_encoder(files: ModelFolder, config: Hallo3Config) -> tuple[dict[str, Any], Tokenizer]:
    """What a prompt needs, small and first: T5's sizes, and its tokenizer, tried. Raises ``CheckpointError``
    and ``DependencyError``."""
    sizes, tokenizer = read_text_encoder_config(files.open("text_encoder"), files.find("tokenizer"))
    check_belongs(files.open("text_encoder"), "text_encoder", config)
    check_file(files.open("text_encoder"), "text_encoder")
    return sizes, tokenizer


def check_fp8_on_disk(files: ModelFolder, precision: Precision, home: str) -> None:
    """Refuse to stream weights in fp8 from a file that has them in another type: each read would convert them
    again. Raises ``InputError``."""
    if not (precision.fp8_weights and home == DISK and files.is_large):
        return
    part = find_component(files.open("transformer"), "transformer")
    matrix = next(name for name in part.assemblies if precision.is_fp8(name))
    if part.dtype(matrix) != FP8:
        raise InputError(
            "The weights would be converted to fp8 each time they are read.",
            found=f"{part.source.path.name} with {str(part.dtype(matrix))[6:]}, streamed from disk in fp8",
            expected="a file that was converted to fp8 once",
            fix=f"hallo3 convert {files.path} FOLDER --dtype fp8, then --model FOLDER; or use bf16",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedNetworks:
    """Each in its residency."""

    speech: AbstractContextManager[nn.Module]
    text: AbstractContextManager[TextEncoder]
    vae: AbstractContextManager[VideoVAE]
    reference: AbstractContextManager[ReferenceNetwork]
    transformer: AbstractContextManager[Hallo3Transformer]


class ShrinkingNetworks:
    """A model's networks under a plan or an ``offload``; if memory runs out, under the next offload."""

    def __init__(
        self,
        place: Callable[[OffloadConfig | None], PlacedNetworks],
        device: torch.device,
        precision: Precision,
        offload: str,
        memory: MemoryPlan | None,
    ) -> None:
        self._place, self._device, self._precision, self.passes = place, device, precision, ""
        names = [*MANUAL_OFFLOADS]
        names = [] if memory else names[names.index(offload) + 1 :]
        self._smaller = [name for name in names if device != CPU or name == "disk"]
        self.placed = place(memory.offload if memory else self._config(offload))

    def _config(self, offload: str) -> OffloadConfig | None:
        config = MANUAL_OFFLOADS[offload]
        if config and self._device == CPU:  # there is one memory: strips would save nothing
            return replace(config, decode=DEFAULT_PLAN)
        return config

    def shrink(self, error: Exception, stage: str) -> bool:
        """As of ``Shrinkable``; what was loaded is let go."""
        where = f"out of memory in the stage {stage}"
        if self._smaller and (config := self._config(offload := self._smaller.pop(0))):
            with suppress(InputError):
                self.placed, self.passes = self._place(config), config.passes
                release_memory()
                logger.warning(f"{where}: {describe_error(error)} Again, as with offload={offload!r}.")
                return True
        advice = "".join(f"in {name}, or " for name in smaller_precisions(self._precision))
        logger.warning(
            f"{where}, and nothing smaller is left: load the models {advice}with a smaller segment"
        )
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Residencies of a model's networks. Without ``config`` transformer and VAE are moved to the device while
    they are used."""

    files: ModelFolder
    device: torch.device
    precision: Precision
    verifier: FileVerifier | None
    config: OffloadConfig | None
    open_progress: OpenProgress = no_display

    def transformer(self, build: Callable[[], N]) -> AbstractContextManager[N]:
        """``build`` makes the network on meta."""
        if (config := self.config) is None:
            return self._move_whole(lambda: self.load(build(), "transformer"))

        def load() -> StreamableModule[N]:
            network = build()
            sequences = split_for_disk(network) if config.home == DISK else split_groups(network)
            resident = choose_resident(sequences[0], config.resident)
            if config.home == RAM:
                self.load(network, "transformer")
                pinned = self.device.type == "cuda"
                return store_in_memory(network, sequences, resident=resident, pinned=pinned)
            audio = [group for groups in sequences for group in groups if group[0].startswith("audio_proj.")]
            return store_on_disk(
                network,
                sequences,
                self._open("transformer"),
                "transformer",
                self.precision,
                resident=resident,
                in_ram=audio if config.keep_audio else (),
                in_pieces=(AUDIO_KERNEL,) if config.home == DISK and not config.keep_audio else (),
            )

        if config.home == DEVICE:
            return ResidentModule(load, self.device, show=lambda: self._show("transformer"))
        keep_resident = config.keep or self.device == CPU
        return StreamedModule(load, self.device, keep_resident=keep_resident)

    def reference(self, build: Callable[[], N]) -> AbstractContextManager[N]:
        def load() -> StreamableModule[N]:
            network, source = build(), self.files.open("reference")
            return store_on_disk(network, split_for_disk(network), source, "reference", self.precision)

        return self._once("reference", build, load)

    def text(
        self, tokenizer: Callable[[], Tokenizer], build: Callable[[], nn.Module]
    ) -> AbstractContextManager[TextEncoder]:
        def load() -> StreamableModule[nn.Module]:
            source, t5 = self.files.open("text_encoder"), build()
            set_tensors(t5, {UNUSED: torch.empty(0, dtype=self.precision.of_text.compute)})
            groups, names = split_text_groups(t5), {UNUSED: f"{EMBEDDING}.weight"}
            return store_on_disk(t5, groups, source, "text_encoder", self.precision.of_text, names=names)

        residency = self._once("text_encoder", build, load)
        return DerivedModule(residency, lambda t5: TextEncoder(tokenizer(), t5))

    def vae(self, build: Callable[[DecodePlan], VideoVAE]) -> AbstractContextManager[VideoVAE]:
        """Small enough not to be split."""

        def load() -> VideoVAE:
            plan = DEFAULT_PLAN if self.config is None else self.config.decode
            vae = build(plan)
            self.load(cast(nn.Module, vae.network), "vae")
            return vae

        if self.config is not None and self.config.home == DEVICE:
            return ResidentModule(lambda: StreamableModule(load(), [], {}.__getitem__), self.device)
        return self._move_whole(load)

    def _move_whole(self, load: Callable[[], M]) -> AbstractContextManager[M]:
        """Loaded on first enter, then kept in RAM, with a copy on the device while used."""
        if self.device == CPU:
            return OnDemandModule(cache(load))
        return StreamedModule(lambda: StreamableModule(load(), [], {}.__getitem__), self.device)

    def load(self, network: M, component: str) -> M:
        """Load a network whole; nothing else keeps its weights alive (see ``store_in_memory``)."""
        precision = self.precision if isinstance(network, Trunk) else self.precision.unquantized
        others = {"speech_encoder": PRECISIONS["fp32"], "text_encoder": self.precision.of_text}
        precision = others.get(component, precision)
        source, shown = self.files.open(component), self.open_progress
        state = tie_embedding(read_component(source, component, precision, self.verifier, shown))
        load_strict(network, add_missing_scales(network, state), COMPONENT_TITLES[component])
        return network

    def _once(
        self, component: str, build: Callable[[], M], stream: Callable[[], StreamableModule[M]]
    ) -> AbstractContextManager[M]:
        """What a run needs once: streamed, or loaded whole if it is small and nothing is offloaded."""

        def choose() -> AbstractContextManager[M]:
            if self.config is None and self.files.open(component).size < WHOLE_BYTES:
                return OnDemandModule(lambda: self.load(build(), component).to(self.device))
            return StreamedModule(stream, self.device, keep=False, show=lambda: self._show(component))

        return ChosenModule(choose)

    def _show(self, component: str) -> AbstractContextManager[None]:
        return show_reading(self._open(component), component, self.open_progress)

    def _open(self, component: str) -> CheckpointSource:
        source = self.files.open(component)
        if self.verifier is not None:
            verify_component(source, self.verifier)
        return source
