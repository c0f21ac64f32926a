"""A whole run from portrait and waveform to frames, with the original's random draws."""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hallo3.face.analyzer import Face
from hallo3.identity import frame_portrait
from hallo3.media.audio import Recording
from hallo3.media.video import to_uint8
from hallo3.models import Models
from hallo3.noise import Noise, Purpose
from hallo3.pipeline import LocalRenderer, MemoryStore, encode_speech, extract_identity, render
from hallo3.segments import Segment
from hallo3.settings import Settings
from hallo3.vae.autoencoder import VideoVAE

from . import networks
from .directory import TRAJECTORY, Check, Golden, Report, goldens, read_golden, swap


@dataclass(frozen=True)
class RecordedFace:
    """The face that the original's analyzers found."""

    golden: Golden
    space: str = "golden"

    def analyze(self, picture: Tensor) -> Face:
        mask = self.golden["in.face_mask_uint8"].float() / 255
        return Face(mask=mask.reshape(picture.shape[1:]), embedding=self.golden["in.face_emb"].reshape(1, -1))


@dataclass
class Run:
    """One render, with every tensor that passes between its stages in ``intermediates``."""

    golden: Golden
    intermediates: dict[str, Tensor] = field(default_factory=dict)

    def noise(self, purpose: Purpose, segment: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """The original's draw for this purpose; it draws posteriors of segment 0, identity, segment 1 …"""
        names = {
            Purpose.MOTION_MASK: f"motion_mask_rand_{segment}",
            Purpose.MOTION_POSTERIOR: f"vae_posterior_noise_{segment + (segment > 0)}",
            Purpose.IDENTITY_POSTERIOR: "vae_posterior_noise_1",
            Purpose.START: f"init_noise_chunk_{segment}",
            Purpose.STEP: f"sampling_chunk_{segment}_step_{step}_used",
        }
        draw = self.golden[f"draw.{names[purpose]}"]
        draw = swap(draw) if purpose in (Purpose.START, Purpose.STEP) else draw
        if draw.shape != torch.Size(shape):
            raise ValueError(f"{purpose} {segment} {step}: {list(draw.shape)} recorded, {list(shape)} asked")
        return draw

    def _record(self, vae: VideoVAE) -> None:
        """Record what the VAE encodes; the original's order is segment 0, identity, segment 1 …"""
        encode, orders = vae.encode, iter([1, 0, *range(2, 10**6)])

        def recorded(pixels: Tensor, noise: Tensor | None = None) -> Tensor:
            latents, order = encode(pixels, noise), next(orders)
            self.intermediates |= {f"mid.vae_in_{order}": pixels, f"mid.vae_latent_{order}": latents}
            if order == 1:
                self.intermediates["mid.ref_latent"] = swap(latents)
            return latents

        vae.encode = recorded  # type: ignore[method-assign]

    def render(self) -> Iterator[tuple[Segment, Tensor]]:
        golden, intermediates = self.golden, self.intermediates
        models, chosen = tiny_models(golden), {"sampler": "dpmpp_2m_sde", "posterior": "sample"}
        settings = Settings(steps=int(golden.about["steps"]), guidance_scale=golden.guidance, **chosen)
        with models.vae as vae:
            self._record(vae)
        picture = golden["in.image_uint8_hwc"].permute(2, 0, 1).float() / 255
        recording = Recording(golden["in.waveform"][None], models.config.segment.sample_rate)
        speech = encode_speech(recording, models)
        intermediates["mid.audio_emb"] = speech.read(range(speech.plan.padded))
        face = RecordedFace(golden).analyze(picture)
        framed = frame_portrait(picture, face, models.config.segment.shape)
        identity = extract_identity(framed, models, settings, self.noise)
        self.canvas = identity.canvas
        intermediates |= {f"mid.bank_{i}": bank for i, bank in enumerate(identity.reference_features)}
        local = LocalRenderer.prepare(identity, speech, golden["in.text_prompt"], models, settings)
        renderer, store = RecordingRenderer(local, intermediates), MemoryStore(self.noise)
        yield from render(identity.canvas.pixels, speech.plan, renderer, store, motion_drop=0.1)


@dataclass
class RecordingRenderer:
    """Records a local renderer's tensors of each segment in ``intermediates``."""

    local: LocalRenderer
    intermediates: dict[str, Tensor]

    def encode(self, pixels: Tensor, segment: Segment, noise: Noise) -> Tensor:
        latents = self.local.encode(pixels, segment, noise)
        self.intermediates[f"mid.concat_chunk_{segment.index}_frame0"] = swap(latents[:, :, :1])
        window = self.local.speech.segment(segment.index)
        self.intermediates[f"mid.audio_slots_chunk_{segment.index}"] = window[:, :, window.shape[2] // 2]
        return latents

    def sample(self, image_latents: Tensor, segment: Segment, noise: Noise) -> Tensor:
        latents = self.local.sample(image_latents, segment, noise)
        self.intermediates[f"out.latent_chunk_{segment.index}"] = swap(latents)
        decoded = torch.cat(list(self.decode(latents)), dim=2)
        ends = torch.cat((decoded[:, :, :2], decoded[:, :, -2:]), dim=2)
        self.intermediates[f"out.decoded_chunk_{segment.index}_first2_last2"] = ends
        return latents

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        return self.local.decode(latents)


def tiny_models(golden: Golden) -> Models:
    """The goldens' networks behind residencies that do nothing; T5 is replaced by a recorded table."""
    sides = networks.ENCODER, networks.DECODER, networks.SPEECH
    encoder, decoder, speech = (networks.weights_of(golden, side) for side in sides)
    config = networks.config_of(golden.about, networks.vae_config(encoder.about))
    about_speech = golden.about.get("wav2vec") or speech.about["config"]
    return Models(
        config=config,
        face=RecordedFace(golden),
        speech=nullcontext(networks.speech_encoder(speech, about_speech)),
        text=cast(Any, nullcontext()),
        vae=nullcontext(networks.vae(encoder, decoder)),
        reference=nullcontext(networks.reference(golden, config)),
        transformer=nullcontext(networks.transformer(golden, config)),
    )


@cache
def render_golden(home: Path, name: str) -> tuple[Run, Tensor]:
    """The run of a golden and its pixels; two goldens hold parts of the same run."""
    run = Run(read_golden(home / f"{name}.json"))
    return run, torch.cat([pixels for _, pixels in run.render()])


def end_to_end(golden: Golden, report: Report) -> None:
    """Latents, decoded ends, all recorded intermediates, and the frames as they would be written."""
    run, pixels = render_golden(golden.home, golden.name)
    segments = sum(name.startswith("mid.concat_chunk_") for name in run.intermediates)
    for name in [*golden.names("out."), *golden.names("mid.")]:
        full = f"out.{name}" if golden.has(f"out.{name}") else f"mid.{name}"
        if full in run.intermediates:
            expected = golden[full]
            report.close(full, run.intermediates[full].reshape(expected.shape), expected, TRAJECTORY)
        elif full.startswith("out.") and not _is_discarded(name, segments):
            report.exact(f"{full} is compared", False, True)
    frames = golden.other(_frames_of(golden))
    if frames.listed:
        _compare_frames(frames, run, pixels, report)


def _frames_of(run: Golden) -> str:
    return str(run.about.get("frames", "")).removesuffix(".safetensors")


def _is_discarded(name: str, segments: int) -> bool:
    """Whether a tensor belongs to a chunk that the original renders and discards."""
    chunk = re.search(r"chunk_(\d+)", name)
    return chunk is not None and int(chunk[1]) >= segments


def _compare_frames(golden: Golden, run: Run, pixels: Tensor, report: Report) -> None:
    """uint8 within 1 in at most 0.01 % of values (frames are truncated: a rounding at a whole number
    counts 1, and 1e-4 of floats is 0.03 of a byte); floats within the trajectory's tolerance. Of square
    portraits the original records whole canvases, or what is left without the bars."""
    found, expected = to_uint8(pixels).permute(0, 2, 3, 1), golden["out.frames_uint8"]
    if found.shape[2] != expected.shape[2]:
        found = to_uint8(run.canvas.uncrop(pixels)).permute(0, 2, 3, 1)
    report.exact("out.frames_uint8 (shape)", list(found.shape), list(expected.shape))
    difference = (found.int() - expected.int()).abs()
    report.close("out.frames_uint8 (largest difference)", difference.max(), torch.tensor(0), 1.0)
    share = (difference > 0).float().mean()
    report.close("out.frames_uint8 (share that differs)", share, torch.tensor(0.0), 1e-4)
    if golden.has("out.frame_index", "out.frames_float"):
        expected, floats = golden["out.frames_float"], pixels[golden["out.frame_index"]]
        floats = floats if floats.shape[3] == expected.shape[3] else run.canvas.uncrop(floats)
        report.close("out.frames_float", floats, expected, TRAJECTORY)


def compare_frames(golden: Golden, report: Report) -> None:
    """Frames of the run that names them, or of the only run."""
    runs = [maker for maker in goldens(golden.home) if _is_run(maker)]
    named = [maker for maker in runs if _frames_of(maker) == golden.name]
    if not (named or len(runs) == 1):
        raise FileNotFoundError(f"no golden names {golden.name} as its frames")
    run, pixels = render_golden(golden.home, (named or runs)[0].name)
    _compare_frames(golden, run, pixels, report)


def _is_run(golden: Golden) -> bool:
    return golden.has("in.image_uint8_hwc", "in.waveform")


CHECKS = (Check(_is_run, end_to_end), Check(lambda g: g.has("out.frames_uint8"), compare_frames))
