"""Times on the device that is there, ours beside the original's in one run: ``python -m benchmarks times``.

On CUDA the transformer and the VAE have the released model's size and random weights; elsewhere they are
small, and their times say nothing about a GPU. Every result says its device and its sizes. "original" is
``benchmarks/baseline.py`` and diffusers' own decoder, called as the original calls it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.goals import judged
from benchmarks.ledger import flop
from benchmarks.networks import Inputs, Networks, Place, original_decode, place_on
from benchmarks.rates import attention_rates, copy_rates, fastest_exact, product_rate
from benchmarks.report import device_named, result_path, stamped, write_json
from benchmarks.streamed import under_ceilings
from benchmarks.times_told import PARTS, chart, text
from benchmarks.timing import Clock, Row
from hallo3.attention import AUTO, get_backend
from hallo3.config import Hallo3Config
from hallo3.media.image import write_picture
from hallo3.model.guidance import GUIDANCE_PASSES, Predict
from hallo3.model.kernels.eager import PLAIN
from hallo3.model.kernels.fused import FUSED
from hallo3.model.kernels.select import why_unsupported
from hallo3.model.layers import Attention
from hallo3.pipeline import collect_frames
from hallo3.sampling.samplers import guided_denoiser, sample_dpmpp_2m_sde
from hallo3.sampling.schedule import make_schedule
from hallo3.vae.autoencoder import VideoVAE
from hallo3.vae.causal_conv import DecodePlan

TORCHS_CHOICE, SAME = "original, torch's choice", "original, same attention"
DECODES = {
    "ours": DecodePlan(),
    "ours, 8 strips": DecodePlan(strips=8),
    "ours, 8 strips, caches in the host": DecodePlan(strips=8, caches="host"),
}
GUIDANCE = 3.5
Decode = Callable[[Tensor], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured: ``steps`` of a segment, the attention's name or "" for the fastest exact one."""

    place: Place
    clock: Clock
    steps: int
    attention: str = ""
    parts: Sequence[str] = PARTS
    ceilings: Sequence[float] = ()

    def run(self) -> dict[str, Any]:
        """Every part that is wanted, by name, and the sizes."""
        found: dict[str, Any] = {"sizes": self.place.said()}
        clock, place, gpu = self.clock, self.place, self.clock.cuda
        if "rates" in self.parts:
            rate = product_rate(clock, place.dtype, 8192 if gpu else 1024)
            found["rates"] = {"matrix product": rate, **copy_rates(clock, 1 << (30 if gpu else 26))}
        if "attention" in self.parts:
            found["attention"] = attention_rates(clock, place.config, place.dtype)
        name = self.attention or fastest_exact(found.get("attention", {}))
        attention = get_backend(name, place.device, place.dtype, place.config.trunk.head_dim)
        found["sizes"]["attention"] = attention.title
        if trouble := why_unsupported(place.device, place.dtype):
            found["sizes"]["fused"] = f"cannot run: {trouble}"
        found |= self._networks(attention)
        rate = found.get("rates", {}).get("matrix product", {}).get("tflops")
        for row in (*found.get("step", {}).values(), *found.get("attention", {}).values()):
            if rate and "tflops" in row:
                row["share"] = row["tflops"] / rate
        if self.ceilings:
            resident = [row["seconds"] for name, row in found.get("step", {}).items() if _ours(name, row)]
            held = min(resident, default=None)
            found["ceilings"] = under_ceilings(place, clock, attention, self.ceilings, held)
        return found

    def _networks(self, attention: Attention) -> dict[str, Any]:
        """What needs weights; they are let go on return."""
        found: dict[str, Any] = {}
        if "step" in self.parts or "segment" in self.parts:
            ways = dict(_ways(Networks(Inputs(self.place, self.steps)), attention))
            if "step" in self.parts:
                found["step"] = _steps(self.clock, self.place.config, ways)
            if "segment" in self.parts:
                found["segment"] = self._segments(ways, found.get("step", {}))
            del ways
            self.clock.tidy()
        if "decode" in self.parts:
            codec, latents = Networks.vae(self.place), Inputs(self.place, 2).latents
            found["decode"] = {
                name: self.clock.measure(lambda one=decode: one(latents))
                for name, decode in _decodes(codec).items()
            }
        return found

    def _segments(self, ways: Mapping[str, Way], measured: Mapping[str, Row]) -> dict[str, Row]:
        """A segment of ``steps`` and its decode, once: the original's in two ways, and our fastest step."""
        codec = Networks.vae(self.place)
        decodes = _decodes(codec)
        ours = [name for name in ways if _ours(name, measured.get(name, {}))]
        fastest = min(ours, key=lambda name: measured[name]["seconds"], default="ours, fused, batched")
        once = Clock(device=self.clock.device, count=1, warm=0)
        found: dict[str, Row] = {}
        for name in (TORCHS_CHOICE, SAME, fastest):
            decode = decodes["original" if name.startswith("original") else "ours"]
            row = once.measure(lambda one=name, end=decode: end(self._sampled(ways[one].predict)))
            found[f"{name}, {self.steps} steps"] = row
        return found

    def _sampled(self, predict: Predict) -> Tensor:
        place = self.place
        shape = (1, place.config.trunk.latent_channels, *place.config.segment.shape.latent)
        drawn = torch.Generator(place.device).manual_seed(2)

        def noise(_: int) -> Tensor:
            return torch.randn(shape, device=place.device, generator=drawn)

        denoise = guided_denoiser(predict, GUIDANCE)
        return sample_dpmpp_2m_sde(denoise, noise(0), make_schedule(self.steps), noise, lambda _: None)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to compute a step, and whose it is."""

    predict: Predict
    latents: Tensor
    original: bool


def _ours(name: str, row: Row) -> bool:
    return name.startswith("ours") and "seconds" in row


def _ways(networks: Networks, attention: Attention) -> Iterator[tuple[str, Way]]:
    latents = networks.inputs.latents
    yield TORCHS_CHOICE, Way(networks.baseline(PLAIN, AUTO), latents, True)
    yield SAME, Way(networks.baseline(PLAIN, attention), latents, True)
    prepared = networks.inputs.prepared(networks.dit(PLAIN, attention))
    for kernels in (
        (PLAIN,) if why_unsupported(networks.place.device, networks.place.dtype) else (PLAIN, FUSED)
    ):
        dit = networks.dit(kernels, attention)
        for passes, branches in GUIDANCE_PASSES.items():
            yield f"ours, {kernels.name}, {passes}", Way(branches(dit, *prepared), latents, False)


def _steps(clock: Clock, config: Hallo3Config, ways: Mapping[str, Way]) -> dict[str, Row]:
    counted = flop(config)
    return {
        name: clock.measure(
            lambda one=way: one.predict(one.latents, 0), counted["baseline" if way.original else "step"]
        )
        for name, way in ways.items()
    }


def _decodes(codec: VideoVAE) -> dict[str, Decode]:
    def decode(plan: DecodePlan) -> Decode:
        return lambda latents: collect_frames(codec.decode(latents, plan=plan), 1 << 30)

    found: dict[str, Decode] = {"original": lambda latents: original_decode(codec, latents)}
    return found | {name: decode(plan) for name, plan in DECODES.items()}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="the result's file (default: benchmarks/results/DEVICE-DATE.json)",
    )
    add("--chart", type=Path, metavar="PNG", help="also draw steps and decodes")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add("--layers", type=int, metavar="N", help="so many layers (default: all, or as many as fit)")
    add("--count", type=int, metavar="N", help="measure so many times (default: 5 on a GPU, else 3)")
    add("--steps", type=int, metavar="N", help="of the whole segments (default: 8 on a GPU, else 2)")
    add(
        "--attention",
        default="",
        metavar="NAME",
        help="of ours and of the second original (default: the fastest exact one)",
    )
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    add(
        "--ceiling",
        type=float,
        nargs="+",
        default=(),
        metavar="GB",
        help="with a GPU: a step under so many GB",
    )
    options = parser.parse_args()
    device = device_named(options.device)
    gpu = device.type == "cuda"
    if options.ceiling and not gpu:
        parser.error(
            "--ceiling needs a GPU: other devices cannot be held to one (`ceilings` counts without one)"
        )
    bench = Bench(
        place=place_on(device, options.layers),
        clock=Clock(device=device, count=options.count or (5 if gpu else 3), warm=2 if gpu else 1),
        steps=options.steps or (8 if gpu else 2),
        attention=options.attention,
        parts=options.only,
        ceilings=options.ceiling,
    )
    found = stamped({"date": f"{datetime.now(UTC):%Y-%m-%d}", **bench.run()}, "times", sys.argv[1:], device)
    found["goals"] = judged(found)
    print(text(found))
    write_json(found, options.json or result_path(found))
    if options.chart:
        write_picture(chart(found), options.chart)


if __name__ == "__main__":
    main()
