"""How far a forward is from float32 in other precisions: ``python -m benchmarks precision``.

The built-in model's transformer, real features of its first sample, a timestep in the middle of the schedule.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch (docs/measurements/README.md)

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from hallo3.built_in import FOLDER  # noqa: E402
from hallo3.face.analyzer import analyze_portrait  # noqa: E402
from hallo3.identity import frame_portrait  # noqa: E402
from hallo3.loading import load_models  # noqa: E402
from hallo3.media.audio import read_recording  # noqa: E402
from hallo3.media.image import read_picture  # noqa: E402
from hallo3.model.transformer import Hallo3Transformer  # noqa: E402
from hallo3.noise import make_noise  # noqa: E402
from hallo3.pipeline import encode_speech, extract_identity  # noqa: E402
from hallo3.quantization.precision import PRECISIONS  # noqa: E402
from hallo3.settings import settings_for  # noqa: E402

TIMESTEP = 500
Inputs = dict[str, Tensor | tuple[Tensor, ...]]


def velocity(name: str, inputs: Inputs) -> Tensor:
    """The velocity of one forward in a precision, as float32."""
    with load_models(FOLDER, torch.device("cpu"), name).transformer as network:
        return forward(network, inputs, PRECISIONS[name].compute)


@torch.inference_mode()
def forward(network: Hallo3Transformer, inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """The velocity of one forward of a network that computes in ``dtype``, as float32."""
    cast = {key: value.to(dtype) for key, value in inputs.items() if isinstance(value, Tensor)}
    heard = network.conditions(inputs["features"], cast["face"], cast["text"], cast["windows"])
    modulation = network.modulate(torch.tensor([TIMESTEP]), cast["latents"])
    return network(cast["latents"], cast["image"], modulation, heard).float()


def apart(one: Tensor, exact: Tensor) -> float:
    """Their relative L2 distance, to three digits."""
    return float(f"{torch.linalg.norm(one - exact) / torch.linalg.norm(exact):.3g}")


@torch.inference_mode()
def real_inputs() -> Inputs:
    """What the transformer is given for the sample portrait and speech; latents are noise."""
    models = load_models(FOLDER, torch.device("cpu"), "fp32")
    settings, portrait = settings_for(models.config.defaults), read_picture(ROOT / "samples" / "portrait.png")
    face = analyze_portrait(portrait, models.face, models.config.face)
    framed = frame_portrait(portrait, face, models.config.segment.shape)
    identity = extract_identity(framed, models, settings, make_noise(0))
    speech = encode_speech(read_recording(ROOT / "samples" / "speech.wav"), models)
    trunk, shape = models.config.trunk, models.config.segment.shape.latent
    drawn = torch.Generator().manual_seed(0)
    size = (1, trunk.latent_channels, *shape)
    return {
        "features": identity.reference_features,
        "face": identity.face_embedding,
        "text": torch.zeros(1, trunk.text_tokens, trunk.text_dim),
        "windows": speech.segment(0),
        "latents": torch.randn(size, generator=drawn),
        "image": torch.randn(size, generator=drawn),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    inputs = real_inputs()
    exact = velocity("fp32", inputs)
    found = {name: apart(velocity(name, inputs), exact) for name in PRECISIONS if name != "fp32"}
    text = json.dumps({"relative L2 of the velocity from fp32's": found}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
