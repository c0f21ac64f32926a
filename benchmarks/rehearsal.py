"""A whole run at full size on the meta device, counted stage by stage: what a memory plan is held against.

Networks have no values; every item that comes to "the device" is made anew, so that the tracker sees it
come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from benchmarks.tracking import Tracker, attention
from hallo3.config import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.face.analyzer import NoFaceAnalyzer
from hallo3.identity import Identity
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.offload.budget import MemoryPlan
from hallo3.offload.estimate import DEVICE, MemoryRequirements, ModelSizes, measure_sizes
from hallo3.offload.streaming import (
    ResidentModule,
    StreamableModule,
    StreamedModule,
    WeightGroup,
    group_tensors,
    set_tensors,
    ungrouped_tensors,
)
from hallo3.offload.weight_store import UNUSED, choose_resident, split_groups, split_text_groups
from hallo3.pipeline import LocalRenderer
from hallo3.quantization.fp8 import FP8
from hallo3.quantization.precision import PRECISIONS, Precision
from hallo3.residency import CPU
from hallo3.segments import SegmentPlan
from hallo3.settings import Settings, settings_for
from hallo3.speech.features import Speech, read_from_memory
from hallo3.text_encoder import build_t5
from hallo3.vae.autoencoder import VideoVAE, build_vae, decode_slices
from hallo3.vae.causal_conv import CausalCache, DecodePlan
from hallo3.vae.decoder import decode_parts

META = torch.device("meta")
N = TypeVar("N", bound=nn.Module)


class AtOnce(Executor):
    """Whatever is handed in is done there and then, where the tracker sees it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Done when it returns."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def stored(
    network: nn.Module, rows: list[Any], precision: Precision, staying: int = 0
) -> StreamableModule[Any]:
    """A network whose items are made anew whenever they are fetched, and whose other tensors are at home
    without values."""
    shapes = {item: dict(_shapes(network, item, precision)) for row in rows for item in row}

    def shelf(item: WeightGroup) -> Mapping[str, Tensor]:
        return {
            name: torch.empty(shape, dtype=kind, device=META) for name, (shape, kind) in shapes[item].items()
        }

    number = precision.compute
    set_tensors(
        network, {name: torch.empty(t.shape, dtype=number) for name, t in ungrouped_tensors(network, rows)}
    )
    return StreamableModule(
        network.eval().requires_grad_(False),
        rows,
        shelf,
        choose_resident(rows[0], staying) if rows else frozenset(),
    )


def _shapes(
    network: nn.Module, item: WeightGroup, precision: Precision
) -> Iterator[tuple[str, tuple[torch.Size, torch.dtype]]]:
    for name, tensor in group_tensors(network, item):
        held = FP8 if precision.is_fp8(name) else precision.compute
        yield name, (tensor.shape, torch.float32 if name.endswith("weight_scale") else held)


class HostShapes(CausalCache):
    """A decode's caches in the host's memory: their shapes alone."""

    def load(self, key: tuple[str, int], destination: Tensor) -> bool:
        """Something of the shape comes to the device, and is written."""
        if key in self._frames:
            destination.copy_(torch.empty(destination.shape, dtype=destination.dtype, device=META))
        return key in self._frames

    def store(self, key: tuple[str, int], frames: Tensor) -> None:
        """It is made contiguous, as what is sent is."""
        self._frames[key] = torch.empty(0)
        frames.contiguous()


class Decoder(VideoVAE):
    """A VAE whose caches in the host's memory are shapes: meta tensors cannot be sent there."""

    def decode(
        self, latents: Tensor, slices: Sequence[int] | None = None, plan: DecodePlan | None = None
    ) -> Iterator[Tensor]:
        """See :meth:`VideoVAE.decode`."""
        if self.plan.caches == "device":
            yield from super().decode(latents, slices, plan)
            return
        parts = torch.split(
            latents.to(next(self.parameters())) * 1.0, list(slices or decode_slices(latents.shape[2])), dim=2
        )
        yield from decode_parts(self.network.decoder, parts, self.plan, cache=HostShapes("host"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A run on meta under a plan. ``fused``: with one kernel for each elementwise step, as on a GPU."""

    sizes: ModelSizes
    demand: MemoryRequirements
    plan: MemoryPlan

    def models(self) -> Models:
        """The networks behind the residencies that the plan asks for."""
        config, precision, arranged = self.sizes.config, self.demand.precision, self.plan.offload
        kernels = FUSED if self.demand.fused else PLAIN
        layers = replace(precision.layers("meta"), attention=attention, kernels=kernels)
        latent = config.segment.shape.latent

        dit = Hallo3Transformer(config, layers)
        reader = ReferenceNetwork(config.trunk, latent, layers)
        codec = Decoder(build_vae(config.vae).network, config.vae.scaling_factor, arranged.decode)
        transformer = stored(dit, split_groups(dit), precision, arranged.resident)
        reference, vae = stored(reader, split_groups(reader), precision), stored(codec, [], precision)
        settles = arranged.home == DEVICE
        return Models(
            config=config,
            face=NoFaceAnalyzer(config.face.space),
            speech=nullcontext(nn.Module()),
            text=cast(Any, nullcontext()),
            vae=standing(vae, settles),
            reference=standing(reference, False),
            transformer=standing(transformer, settles),
        )

    def settings(self) -> Settings:
        """Two steps; the tables of the others are made besides."""
        arranged = self.plan.offload
        chosen = settings_for(HALLO3.defaults, steps=self.demand.steps)
        return replace(
            chosen,
            guidance_scale=3.5 if self.demand.branches == 2 else 1.0,
            passes=arranged.passes,
            on_access=arranged.on_access,
            steps_on_access=arranged.steps_on_access,
        )

    @torch.inference_mode()
    def run(self, steps: int = 2, slices: int = 2) -> dict[str, int]:
        """The most bytes on the device in every stage, of so many ``steps`` and ``slices`` of decoding."""
        peaks: dict[str, int] = {}
        models, config, number = self.models(), self.sizes.config, self.demand.precision.compute
        text_encoder = self._text_encoder()
        with Tracker("meta") as tracker:

            @contextmanager
            def stage(name: str) -> Generator[None]:
                tracker.restart_peak()
                yield
                peaks[name] = tracker.peak

            def meta(*shape: int) -> Tensor:
                return torch.empty(shape, device=META, dtype=number)

            with stage("prompt"), text_encoder as t5:
                t5(input_ids=torch.zeros(1, config.trunk.text_tokens, dtype=torch.long, device=META))
            with stage("portrait"), models.vae as vae:
                latents = vae.encode(meta(1, 3, 1, *config.segment.shape[1:]))
            with stage("reference"), models.reference as network:
                features = network.features(latents)
            identity = Identity(
                canvas=cast(Any, None),
                space=config.face.space,
                face_embedding=torch.zeros(1, config.face.embedding_dim),
                reference_features=tuple(each.new_empty(each.shape, device=CPU) for each in features),
            )
            del features, latents
            with stage("prepare"):
                stages = self._prepared(identity, models)
            segment, noise = stages.speech.plan[0], make_noise(0)
            with stage("encode"):
                pixels = torch.empty(1, 3, 1 + config.segment.motion_frames, *config.segment.shape[1:])
                image = stages.encode(pixels, segment, noise)
            with stage("listen"), models.transformer as dit:
                dit.encode_audio(
                    stages.speech.segment(0).to(stages.run.text), on_access=stages.settings.on_access
                )
            cut = replace(stages, schedule=replace(stages.schedule, steps=stages.schedule.steps[:steps]))
            with stage("sample"):
                sampled = cut.sample(image, segment, noise)
            del image
            with stage("decode"):
                for count, frames in enumerate(stages.decode(sampled), 1):
                    frames.float()
                    del frames
                    if count == slices:
                        break
        return peaks

    def _text_encoder(self) -> AbstractContextManager[nn.Module]:
        t5, plain = build_t5(self.sizes.text), replace(self.demand.precision, fp8_weights=False)
        set_tensors(t5, {UNUSED: torch.empty(0)})
        return standing(stored(t5, split_text_groups(t5), plain), False)

    def _prepared(self, identity: Identity, models: Models) -> LocalRenderer:
        config, audio = self.sizes.config, self.sizes.config.audio
        plan = SegmentPlan(2 * config.segment.new_frames, config.segment)
        speech = Speech(
            read_from_memory(torch.zeros(plan.padded, audio.layers, audio.channels)), plan, audio.window
        )
        prompt = torch.empty(1, config.trunk.text_tokens, config.trunk.text_dim)
        return LocalRenderer.prepare(identity, speech, prompt, models, self.settings())


def standing(network: StreamableModule[N], settles: bool) -> AbstractContextManager[N]:
    """A network that stays on meta once it is there, or comes by its items."""
    return (
        ResidentModule(lambda: network, META)
        if settles
        else StreamedModule(lambda: network, META, executor=AtOnce)
    )


def full_size(precision: str = "bf16") -> ModelSizes:
    """The released model's."""
    return measure_sizes(HALLO3, PRECISIONS[precision], TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])
