"""Fit the colours of ComfyUI's latent previews: ``python tools/fit_previews.py``.

Least squares, for the built-in model, from noisy latents of the sample portrait in shifted colours to the
frames that its VAE decodes from them, averaged to the latent grid. Prints the explained variance and writes
nodes/comfy/preview_factors.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hallo3.built_in import FOLDER  # noqa: E402
from hallo3.loading import load_models  # noqa: E402
from hallo3.media.canvas import fit  # noqa: E402
from hallo3.media.image import read_picture  # noqa: E402
from hallo3.quantization import PRECISIONS  # noqa: E402
from hallo3.vae.autoencoder import VideoVAE  # noqa: E402

FACTORS = ROOT / "nodes" / "comfy" / "preview_factors.json"
CLIPS, LATENT_FRAMES, NOISE = 24, 5, 0.3


@torch.inference_mode()
def sample_pairs(vae: VideoVAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled latents [N, C] and the colours [N, 3] in -1..1 of the frames that decode from them."""
    generator = torch.Generator().manual_seed(0)
    latent_rows: list[Tensor] = []
    colour_rows: list[Tensor] = []
    for _ in range(CLIPS):
        shift = 0.5 * torch.randn(1, 3, 1, 1, 1, generator=generator)
        still = vae.encode((pixels + shift).clamp(-1, 1)).expand(-1, -1, LATENT_FRAMES, -1, -1)
        latents = still + NOISE * still.std() * torch.randn(still.shape, generator=generator)
        frames = torch.cat(list(vae.decode(latents)), dim=2)
        first, rest = frames[:, :, :1], frames[:, :, 1:]
        pooled = torch.cat((F.avg_pool3d(first, (1, 8, 8)), F.avg_pool3d(rest, (4, 8, 8))), dim=2)
        latent_rows.append(latents.movedim(1, -1).flatten(0, -2))
        colour_rows.append(pooled.clamp(-1, 1).movedim(1, -1).flatten(0, -2))
    return torch.cat(latent_rows), torch.cat(colour_rows)


def fit_factors(latents: Tensor, colours: Tensor) -> tuple[dict[str, list[list[float]] | list[float]], float]:
    """Factors and bias, and the explained share of variance."""
    inputs = torch.cat((latents, torch.ones(len(latents), 1)), dim=1).double()
    solution = torch.linalg.lstsq(inputs, colours.double()).solution
    left = (inputs @ solution - colours).var(dim=0).sum() / colours.double().var(dim=0).sum()
    rounded = [[round(float(value), 4) for value in row] for row in solution]
    return {"factors": rounded[:-1], "bias": rounded[-1]}, 1 - float(left)


def main() -> None:
    models = load_models(FOLDER, torch.device("cpu"), PRECISIONS["fp32"])
    config = models.config
    pixels = fit(read_picture(ROOT / "samples" / "portrait.png"), config.segment.shape).pixels
    with models.vae as vae:
        factors, explained = fit_factors(*sample_pairs(vae, pixels))
    FACTORS.write_text(json.dumps({config.name: factors}, indent=1) + "\n", encoding="utf-8")
    print(f"{config.name}: {explained:.1%} of the variance explained")


if __name__ == "__main__":
    main()
