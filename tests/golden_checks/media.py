"""Fit pictures to the canvas; drop pixels of motion frames."""

from __future__ import annotations

import re

import torch

from hallo3.media.canvas import cover, drop_pixels, pad_square

from .directory import Check, Golden, Report

RESIZE = 1e-6
"""The resizers are the same operation bit for bit on one machine; kernels differ between machines."""


def image_resize(golden: Golden) -> Report:
    """Both resizers at every recorded size, whole or subsampled."""
    report = Report()
    for name in golden.listed:
        match = re.fullmatch(r"((rect|square)\.\w+)\.out_(\d+)x(\d+)(?:_every(\d+)|_(stats))?", name)
        if match is None:
            continue
        case, kind, height, width, every, stats = match.groups()
        picture = golden[f"{case}.in_uint8_hwc"].permute(2, 0, 1).float() / 255
        fit = cover if kind == "rect" else pad_square
        found = fit(picture, int(height), int(width))
        expected = golden[name]
        if every:
            found = found[:, :: int(every), :: int(every)]
        if stats:
            f = found.double()
            found = torch.stack((f.mean(), f.std(), f.min(), f.max()))
        report.close(name, found.reshape(expected.shape), expected, 1e-5 if stats else RESIZE)
    return report


def motion_mask(golden: Golden) -> Report:
    """Which pixels are kept, in float32 and bfloat16."""
    report = Report()
    for case in sorted({name.split(".")[0] for name in golden.names("mask.")}):
        prefix = f"mask.{case}."
        if golden.has(prefix + "out"):
            frames, draw = golden[prefix + "in"], golden[prefix + "rand_fp32"]
            found = drop_pixels(frames, draw, 0.1)
            report.close(prefix + "out", found, golden[prefix + "out"], 0.0)
        else:
            draw, frames = golden[prefix + "rand"], torch.ones(1, dtype=getattr(torch, _dtype(case)))
        keep = drop_pixels(torch.ones(1, dtype=frames.dtype), draw, 0.1) > 0
        report.close(prefix + "keep", keep.float(), golden[prefix + "keep"].float(), 0.0)
    return report


def _dtype(case: str) -> str:
    return "bfloat16" if case.startswith("bf16") else "float32"


def _holds_pictures(golden: Golden) -> bool:
    return any(name.endswith(".in_uint8_hwc") for name in golden.listed)


CHECKS = (
    Check(_holds_pictures, image_resize),
    Check(lambda g: bool(g.names("mask.")), motion_mask),
)
