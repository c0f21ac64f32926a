"""Latent previews look like the frames that the VAE decodes (``tools/fit_previews.py``)."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hallo3.built_in import FOLDER
from hallo3.config import BUILT_IN, HALLO3
from hallo3.media.canvas import fit
from hallo3.media.image import read_picture
from tools import fit_previews


@pytest.fixture(scope="module")
def known() -> dict[str, fit_previews.Factors]:
    return json.loads(fit_previews.FACTORS.read_text(encoding="utf-8"))


def test_every_model_has_factors_and_a_fit_says_where_others_are_from(
    known: dict[str, fit_previews.Factors],
) -> None:
    for config in (HALLO3, BUILT_IN):
        factors = torch.tensor(known[config.name]["factors"])
        assert factors.shape == (config.vae.latent_channels, 3)
    assert "CogVideoX" in known[HALLO3.name]["source"] or "bias" in known[HALLO3.name]


def test_a_preview_resembles_the_decoded_frame(known: dict[str, fit_previews.Factors], samples: Path) -> None:
    """Of a portrait that was not fitted to; a preview of the other model's factors does not."""
    model, vae = fit_previews.load_vae(FOLDER / "vae.safetensors")
    assert model is BUILT_IN
    pixels = fit(read_picture(samples / "portrait_2.png"), BUILT_IN.segment.shape).pixels
    with torch.inference_mode():
        latents = vae.encode(pixels)
        frame = torch.cat(list(vae.decode(latents)), dim=2)
    colours = F.avg_pool3d(frame, (1, 8, 8)).flatten(2)[0]

    def correlation(name: str) -> float:
        factors = known[name]
        bias = torch.tensor(factors.get("bias", [0.0] * 3))
        shown = latents[0].flatten(1).T @ torch.tensor(factors["factors"]) + bias
        return float(torch.corrcoef(torch.stack((shown.T.flatten(), colours.flatten())))[0, 1])

    assert correlation(BUILT_IN.name) > 0.95
    assert correlation(HALLO3.name) < 0.5


def test_a_file_of_another_vae_is_refused(nano_folder: Path) -> None:
    with pytest.raises(SystemExit, match="other sizes"):
        fit_previews.load_vae(nano_folder / "vae.safetensors")


def test_factors_are_fitted_to_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(400, 16, generator=generator)
    colours = latents @ torch.randn(16, 3, generator=generator) + torch.tensor([0.3, 0.0, -0.3])
    fitted = fit_previews.fit_factors(latents, colours)
    assert fit_previews.explained_variance(fitted, latents, colours) > 0.9999
    assert fit_previews.explained_variance({"factors": torch.zeros(16, 3).tolist()}, latents, colours) < 0.01
