"""Fit the colours of ComfyUI's latent previews: ``python tools/fit_previews.py [VAE [PICTURE ...]]``.

VAE is a file of CogVideoX-5B's VAE, as published or converted; the default is the built-in model's. Least
squares, from noisy latents of pictures in shifted colours to the frames that the VAE decodes from them,
averaged to the latent grid. Prints the variance that the present factors and the new ones explain, and writes
the new ones into nodes/comfy/preview_factors.json. The default picture is the sample portrait; for CogVideoX,
photographs are better.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hallo3.built_in import FOLDER  # noqa: E402
from hallo3.checkpoints.load import load_strict, read_component, read_component_config  # noqa: E402
from hallo3.config import BUILT_IN, HALLO3, Hallo3Config, VAEConfig, from_dict  # noqa: E402
from hallo3.geometry import VideoShape  # noqa: E402
from hallo3.media.canvas import fit  # noqa: E402
from hallo3.media.image import read_picture  # noqa: E402
from hallo3.quantization import PRECISIONS  # noqa: E402
from hallo3.vae.autoencoder import VideoVAE, build_vae  # noqa: E402

FACTORS = ROOT / "nodes" / "comfy" / "preview_factors.json"
CLIPS, LATENT_FRAMES, NOISE = 24, 5, 0.3
SHAPES = {BUILT_IN.name: BUILT_IN.segment.shape, HALLO3.name: VideoShape(1, 160, 240)}
"""Of the pictures: for CogVideoX a third of the model's canvas."""
Factors = dict[str, Any]


def load_vae(path: Path) -> tuple[Hallo3Config, VideoVAE]:
    """The model whose VAE the file holds, and the VAE."""
    config = from_dict(VAEConfig, read_component_config(path, "vae"), "vae")
    model = next((each for each in (HALLO3, BUILT_IN) if each.vae == config), None)
    if model is None:
        raise SystemExit(f"{path}: a VAE of other sizes than Hallo3's")
    vae, device = build_vae(config), "cuda" if torch.cuda.is_available() else "cpu"
    network = cast(nn.Module, vae.network)
    load_strict(network, read_component(path, "vae", PRECISIONS["fp32"]), "the VAE")
    network.to(device)
    return model, vae


@torch.inference_mode()
def sample_pairs(vae: VideoVAE, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Scaled latents [N, C] and the colours [N, 3] in -1..1 of the frames that decode from them. ``pictures``
    are [1, 3, 1, H, W] in -1..1."""
    generator = torch.Generator().manual_seed(0)
    latent_rows: list[Tensor] = []
    colour_rows: list[Tensor] = []
    for clip in range(CLIPS):
        shift = 0.5 * torch.randn(1, 3, 1, 1, 1, generator=generator)
        pixels = (pictures[clip % len(pictures)] + shift).clamp(-1, 1)
        still = vae.encode(pixels).cpu().expand(-1, -1, LATENT_FRAMES, -1, -1)
        latents = still + NOISE * still.std() * torch.randn(still.shape, generator=generator)
        frames = torch.cat([part.cpu() for part in vae.decode(latents)], dim=2)
        first, rest = frames[:, :, :1], frames[:, :, 1:]
        pooled = torch.cat((F.avg_pool3d(first, (1, 8, 8)), F.avg_pool3d(rest, (4, 8, 8))), dim=2)
        latent_rows.append(latents.movedim(1, -1).flatten(0, -2))
        colour_rows.append(pooled.clamp(-1, 1).movedim(1, -1).flatten(0, -2))
    return torch.cat(latent_rows), torch.cat(colour_rows)


def fit_factors(latents: Tensor, colours: Tensor) -> Factors:
    inputs = torch.cat((latents, torch.ones(len(latents), 1)), dim=1).double()
    solution = cast(Tensor, torch.linalg.lstsq(inputs, colours.double()).solution)
    rounded = [[round(float(value), 4) for value in row] for row in solution]
    return {"factors": rounded[:-1], "bias": rounded[-1]}


def explained_variance(factors: Factors, latents: Tensor, colours: Tensor) -> float:
    """Of the colours, by previews with the factors."""
    shown = latents @ torch.tensor(factors["factors"]) + torch.tensor(factors.get("bias", [0.0] * 3))
    return 1 - float((shown - colours).var(dim=0).sum() / colours.var(dim=0).sum())


def main(words: Sequence[str] = ()) -> None:
    model, vae = load_vae(Path(words[0]) if words else FOLDER / "vae.safetensors")
    paths = [Path(word) for word in words[1:]] or [ROOT / "samples" / "portrait.png"]
    pairs = sample_pairs(vae, [fit(read_picture(path), SHAPES[model.name]).pixels for path in paths])
    known = json.loads(FACTORS.read_text(encoding="utf-8"))
    fitted = fit_factors(*pairs)
    if model.name in known:
        print(f"{model.name}: {explained_variance(known[model.name], *pairs):.1%} explained so far")
    print(f"{model.name}: {explained_variance(fitted, *pairs):.1%} of the variance explained")
    FACTORS.write_text(json.dumps(known | {model.name: fitted}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
