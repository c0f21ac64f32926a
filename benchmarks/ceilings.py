"""A whole run at full size under limits of GPU memory, counted on the meta device stage by stage.

Memory plans are compared with it. What streams in a step is listed with the link that hides it at a given
rate of matrix products.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from benchmarks.counts import META, Tracker, attention
from benchmarks.report import Result, Scenario
from hallo3.config import HALLO3, SPEECH_ENCODERS, TEXT_ENCODERS
from hallo3.face.analyzer import NoFaceAnalyzer
from hallo3.identity import Identity
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.transformer import Hallo3Transformer, ReferenceNetwork
from hallo3.models import Models
from hallo3.noise import make_noise
from hallo3.offload import streaming
from hallo3.offload.budget import MemoryPlan, plan_memory
from hallo3.offload.estimate import DEVICE, MemoryRequirements
from hallo3.offload.sizes import ModelSizes, measure_sizes
from hallo3.offload.weight_store import UNUSED, choose_resident, split_groups, split_text_groups
from hallo3.pipeline import LocalRenderer
from hallo3.quantization import FP8, PRECISIONS, Precision
from hallo3.residency import CPU
from hallo3.segments import SegmentPlan
from hallo3.settings import Settings, settings_for
from hallo3.speech.features import Speech, read_from_memory
from hallo3.text_encoder import build_t5
from hallo3.units import GB
from hallo3.vae.autoencoder import VideoVAE, build_vae, decode_slices
from hallo3.vae.causal_conv import CausalCache, DecodePlan
from hallo3.vae.decoder import decode_parts

LIMITS = (6, 8, 12, 16, 24)
RATES = (70e12, 160e12, 400e12, 800e12)
"""FLOP per second that a GPU may reach in a step."""
STEP_FLOP = 7.75e14
"""docs/measurements/ledger.json."""
N = TypeVar("N", bound=nn.Module)


class SynchronousExecutor(Executor):
    """Runs each call at once, where the tracker sees it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def lay_out_groups(
    network: nn.Module, sequences: Sequence[Any], precision: Precision
) -> dict[streaming.WeightGroup, streaming.PackedLayout]:
    """A network's weight groups as they are packed on the device."""

    def dtype(name: str) -> torch.dtype:
        if precision.is_fp8(name):
            return FP8
        return torch.float32 if name.endswith("weight_scale") else precision.compute

    return {
        group: streaming.PackedLayout(
            {
                name: torch.empty(tensor.shape, dtype=dtype(name), device=META)
                for name, tensor in streaming.group_tensors(network, group)
            }
        )
        for sequence in sequences
        for group in sequence
    }


def make_streamable(
    network: nn.Module, sequences: list[Any], precision: Precision, resident: int = 0
) -> streaming.StreamableModule[Any]:
    """A network whose groups are allocated on meta each time they are fetched, in one piece as on a GPU;
    other tensors are in RAM."""
    layouts = lay_out_groups(network, sequences, precision)

    def allocate(group: streaming.WeightGroup) -> Mapping[str, Tensor]:
        return layouts[group].allocate(META)[1]

    ungrouped = streaming.ungrouped_tensors(network, sequences)
    streaming.set_tensors(
        network, {name: torch.empty(t.shape, dtype=precision.compute) for name, t in ungrouped}
    )
    groups = choose_resident(sequences[0], resident) if sequences else frozenset[streaming.WeightGroup]()
    return streaming.StreamableModule(network.eval().requires_grad_(False), sequences, allocate, groups)


def place(module: streaming.StreamableModule[N], resident: bool = False) -> AbstractContextManager[N]:
    if resident:
        return streaming.ResidentModule(lambda: module, META)
    return streaming.StreamedModule(lambda: module, META, executor=SynchronousExecutor)


class ShapeCache(CausalCache):
    """Caches of a decode in RAM, without values."""

    def reserve(self, count: int, like: Tensor) -> None:
        pass

    def load(self, key: tuple[str, int], destination: Tensor) -> bool:
        if key in self._frames:
            destination.copy_(torch.empty(destination.shape, dtype=destination.dtype, device=META))
        return key in self._frames

    def store(self, key: tuple[str, int], frames: Tensor) -> None:
        self._frames[key] = torch.empty(0)
        frames.contiguous()  # a copy on the device, as of the real cache


class MetaVAE(VideoVAE):
    """Meta tensors cannot be copied to RAM: caches there have no values."""

    def decode(
        self, latents: Tensor, slices: Sequence[int] | None = None, plan: DecodePlan | None = None
    ) -> Iterator[Tensor]:
        if self.plan.caches == "device":
            yield from super().decode(latents, slices, plan)
            return
        scaled = latents.to(next(self.parameters())) * 1.0
        parts = torch.split(scaled, list(slices or decode_slices(latents.shape[2])), dim=2)
        yield from decode_parts(self.network.decoder, parts, self.plan, cache=ShapeCache("host"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A whole run on meta under a plan. Networks have no values; each fetched group is new memory, so the
    tracker sees it come and go."""

    sizes: ModelSizes
    requirements: MemoryRequirements
    plan: MemoryPlan

    def models(self, transformer: AbstractContextManager[Hallo3Transformer] | None = None) -> Models:
        config, precision, offload = self.sizes.config, self.requirements.precision, self.plan.offload
        kernels, resident = FUSED if self.requirements.fused else PLAIN, offload.home == DEVICE
        layers = replace(precision.layers("meta"), attention=attention, kernels=kernels)
        reference = ReferenceNetwork(config.trunk, config.segment.shape.latent, layers)
        vae = MetaVAE(build_vae(config.vae).network, config.vae.scaling_factor, offload.decode)
        if transformer is None:
            dit = Hallo3Transformer(config, layers)
            streamable = make_streamable(dit, split_groups(dit), precision, offload.resident)
            transformer = place(streamable, resident)
        return Models(
            config=config,
            face=NoFaceAnalyzer(config.face.space),
            speech=nullcontext(nn.Module()),
            text=cast(Any, nullcontext()),
            vae=place(make_streamable(vae, [], precision), resident),
            reference=place(make_streamable(reference, split_groups(reference), precision)),
            transformer=transformer,
        )

    def settings(self) -> Settings:
        offload = self.plan.offload
        return replace(
            settings_for(HALLO3.defaults, steps=self.requirements.steps),
            guidance_scale=3.5 if self.requirements.branches == 2 else 1.0,
            passes=offload.passes,
            on_access=offload.on_access,
            steps_on_access=offload.steps_on_access,
        )

    @torch.no_grad()  # in inference mode the tracker does not see what composite operations allocate
    def run(
        self,
        steps: int = 2,
        slices: int = 2,
        *,
        tracker: Tracker | None = None,
        transformer: AbstractContextManager[Hallo3Transformer] | None = None,
    ) -> dict[str, int]:
        """Peak bytes on the device per stage; of sampling only ``steps``, of decoding ``slices`` are run."""
        peaks: dict[str, int] = {}
        models, config, dtype = (
            self.models(transformer),
            self.sizes.config,
            self.requirements.precision.compute,
        )
        t5, unquantized = build_t5(self.sizes.text), replace(self.requirements.precision, fp8_weights=False)
        streaming.set_tensors(t5, {UNUSED: torch.empty(0)})
        text_encoder = place(make_streamable(t5, split_text_groups(t5), unquantized))
        with tracker or Tracker("meta") as tracker:

            @contextmanager
            def stage(name: str) -> Generator[None]:
                tracker.restart_peak()
                yield
                peaks[name] = tracker.peak

            # in inference mode attention is one operation, which keeps no scores
            with stage("prompt"), torch.inference_mode(), text_encoder as encoder:
                encoder(torch.zeros(1, config.trunk.text_tokens, dtype=torch.long, device=META))
            with stage("portrait"), models.vae as vae:
                shape = (1, 3, 1, *config.segment.shape[1:])
                latents = vae.encode(torch.empty(shape, device=META, dtype=dtype))
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
                renderer = self._prepare(identity, models)
            segment, noise = renderer.speech.plan[0], make_noise(0)
            with stage("encode"):
                pixels = torch.empty(1, 3, 1 + config.segment.motion_frames, *config.segment.shape[1:])
                image = renderer.encode(pixels, segment, noise)
            with stage("listen"), models.transformer as dit:
                windows = renderer.speech.segment(0).to(next(dit.parameters()))
                dit.encode_audio(windows, on_access=renderer.settings.on_access)
            schedule = replace(renderer.schedule, steps=renderer.schedule.steps[:steps])
            with stage("sample"):
                sampled = replace(renderer, schedule=schedule).sample(image, segment, noise)
            del image, windows
            with stage("decode"):
                for count, frames in enumerate(renderer.decode(sampled), 1):
                    frames.float()
                    del frames
                    if count == slices:
                        break
        return peaks

    def _prepare(self, identity: Identity, models: Models) -> LocalRenderer:
        config, audio = self.sizes.config, self.sizes.config.audio
        plan = SegmentPlan(2 * config.segment.new_frames, config.segment)
        features = torch.zeros(plan.padded, audio.layers, audio.channels)
        speech = Speech(read_from_memory(features), plan, audio.window)
        prompt = torch.empty(1, config.trunk.text_tokens, config.trunk.text_dim)
        return LocalRenderer.prepare(identity, speech, prompt, models, self.settings())


def full_size(precision: str = "bf16") -> ModelSizes:
    """Of the released model."""
    return measure_sizes(HALLO3, PRECISIONS[precision], TEXT_ENCODERS["hallo3"], SPEECH_ENCODERS["hallo3"])


def plan_limit(limit: float, precision: str = "bf16", *, fused: bool = True) -> Rehearsal:
    """A run of 50 guided steps under a limit in GB, with 64 GB of RAM."""
    sizes, steps = full_size(precision), HALLO3.defaults.steps
    requirements = MemoryRequirements(precision=PRECISIONS[precision], steps=steps, branches=2, fused=fused)
    plan = plan_memory(sizes, requirements, round(limit * GB), 64 * GB)
    return Rehearsal(sizes=sizes, requirements=requirements, plan=plan)


def measure(options: Namespace) -> Result:
    def row(limit: float) -> Result:
        rehearsal = plan_limit(limit, options.precision, fused=not options.plain)
        streamed = rehearsal.plan.stage("sample").streamed
        return {
            "ceiling_gb": limit,
            "precision": options.precision,
            "fused": not options.plain,
            "line": rehearsal.plan.line(),
            "plan": rehearsal.plan.as_dict(),
            "counted": rehearsal.run(slices=6),
            "streamed_a_step": streamed,
            "link_that_hides_it": {f"{rate:.0e} FLOP/s": streamed / (STEP_FLOP / rate) for rate in RATES},
        }

    return {"ceilings": [row(limit) for limit in options.limits or LIMITS]}


def show(result: Result, _: Namespace) -> None:
    for row in result["ceilings"]:
        print(f"{row['ceiling_gb']:g} GB, {row['precision']}: {row['line']}")
        planned = {stage["name"]: stage["total"] / GB for stage in row["plan"]["stages"]}
        for name, peak in row["counted"].items():
            print(f"  {name:<10} counted {peak / GB:6.2f} GB, planned {planned[name]:6.2f} GB")
        links = ", ".join(f"{rate}: {link / GB:.1f}" for rate, link in row["link_that_hides_it"].items())
        print(f"  GB/s that hide {row['streamed_a_step'] / GB:.1f} GB per step at {links}")


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("limits", type=float, nargs="*", metavar="GB", help="default: 6 8 12 16 24")
    parser.add_argument("--precision", default="bf16", choices=tuple(PRECISIONS))
    parser.add_argument("--plain", action="store_true", help="without fused kernels")


CEILINGS = Scenario(measure=measure, add_options=add_options, show=show)
