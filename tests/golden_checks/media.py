"""Pictures are fitted to the canvas, pixels of motion frames dropped, landmarks become a filled box; the VAE
encodes in one call and decodes in slices and in one go."""

import re

import torch
from torch import Tensor

from hallo3.face.landmarks import SILHOUETTE, box_mask, expand, silhouette_box
from hallo3.geometry import PixelBox
from hallo3.media.canvas import cover, drop_pixels, pad_square
from hallo3.media.framing import MASK_RATIO
from hallo3.vae.autoencoder import VideoVAE

from . import networks
from .directory import Check, Golden, Report

RESIZE, RESIZE_STATS = 1e-6, 1e-5
"""Of values up to 1: sums of some ten weighted pixels in float32, four ulps. Equal bit for bit with AVX2 and
AVX512; 4.8e-7 apart with torch's default instructions. Recorded statistics are float32 sums of a picture."""


def image_resize(golden: Golden, report: Report) -> None:
    """Both resizers at every recorded size, whole or subsampled."""
    for name in golden.listed:
        match = re.fullmatch(r"((rect|square)\.\w+)\.out_(\d+)x(\d+)(?:_every(\d+)|_(stats))?", name)
        if match is None:
            continue
        case, kind, height, width, every, stats = match.groups()
        picture = golden[f"{case}.in_uint8_hwc"].permute(2, 0, 1).float() / 255
        found = (cover if kind == "rect" else pad_square)(picture, int(height), int(width))
        found = found[:, :: int(every or 1), :: int(every or 1)]
        if stats:
            f = found.double()
            found = torch.stack((f.mean(), f.std(), f.min(), f.max()))
        report.check(name, found.reshape(golden[name].shape), RESIZE_STATS if stats else RESIZE)


def motion_mask(golden: Golden, report: Report) -> None:
    """Which pixels are kept, in float32 and bfloat16."""
    for case in sorted({name.split(".")[0] for name in golden.names("mask.")}):
        prefix = f"mask.{case}."
        if golden.has(prefix + "out"):
            frames, draw = golden[prefix + "in"], golden[prefix + "rand_fp32"]
            report.check(prefix + "out", drop_pixels(frames, draw, 0.1), 0.0)
        else:
            dtype = torch.bfloat16 if case.startswith("bf16") else torch.float32
            draw, frames = golden[prefix + "rand"], torch.ones(1, dtype=dtype)
        keep = drop_pixels(torch.ones(1, dtype=frames.dtype), draw, 0.1) > 0
        report.close(prefix + "keep", keep.float(), golden[prefix + "keep"].float(), 0.0)


def compare_masks(golden: Golden, report: Report) -> None:
    """The outline's points, boxes expanded by several ratios, and whole masks."""
    about = golden.about
    report.exact("silhouette_landmark_ids", list(SILHOUETTE), about["silhouette_landmark_ids"])
    for number, case in enumerate(about["expand_region_pairs"]):
        left, right, top, bottom = case["region"]
        region = PixelBox(left, top, right, bottom)
        found = expand(region, case["image_h"], case["image_w"], case["expand_ratio"])
        report.exact(f"box {number}", [found.left, found.right, found.top, found.bottom], case["result"])
    for case, size in about["masks"].items():
        if golden.has(f"landmarks_{case}"):
            report.exact(f"ratio {case}", MASK_RATIO, size["expand_ratio"])
            found = box_mask(silhouette_box(golden[f"landmarks_{case}"]), size["h"], size["w"]) * 255
            report.close(f"face_mask_{case}", found, golden[f"face_mask_{case}"].float(), 0.0)


def encode(golden: Golden, report: Report) -> None:
    """Moments and sampled latents for every recorded clip length."""
    vae = networks.vae(networks.weights_of(golden, networks.ENCODER), None)
    for count in golden.names("in.video_"):
        clip = golden[f"in.video_{count}"]
        report.check(f"out.moments_{count}", torch.cat(vae.posterior(clip), dim=1))
        report.check(f"out.latent_scaled_{count}", vae.encode(clip, golden[f"noise_{count}"]))


def decode_chunked(golden: Golden, report: Report) -> None:
    """Slice by slice as the original's script does it."""
    vae, latents = _decoder(golden)
    frames = list(vae.decode(latents))
    report.check("out.chunked", torch.cat(frames, dim=2))
    if "frames_per_chunk" in golden.about:
        report.exact("frames_per_chunk", [part.shape[2] for part in frames], golden.about["frames_per_chunk"])


def decode_onego(golden: Golden, report: Report) -> None:
    """All latents in one decoder call, and the first few alone."""
    vae, latents = _decoder(golden)
    if golden.has("out.one_go"):
        report.check("out.one_go", next(vae.decode(latents, [latents.shape[2]])))
    for name in golden.names("out.first_"):
        count = int(name.split("_")[0])
        report.check(f"out.first_{name}", next(vae.decode(latents[:, :, :count], [count])))


def _decoder(golden: Golden) -> tuple[VideoVAE, Tensor]:
    vae = networks.vae(None, networks.weights_of(golden, networks.DECODER))
    return vae, golden["in.latent"] * vae.scaling_factor


CHECKS = (
    Check(lambda g: any(name.endswith(".in_uint8_hwc") for name in g.listed), image_resize),
    Check(lambda g: bool(g.names("mask.")), motion_mask),
    Check(lambda g: "silhouette_landmark_ids" in g.about, compare_masks),
    Check(lambda g: bool(g.names("in.video_")), encode),
    Check(lambda g: g.has("in.latent", "out.chunked"), decode_chunked),
    Check(lambda g: g.has("in.latent") and not g.has("out.chunked"), decode_onego),
)
