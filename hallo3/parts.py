"""The parts of the model: five networks, each in a file of its own name."""

from __future__ import annotations

ARE = {
    "transformer": "Hallo3's transformer",
    "reference": "Hallo3's reference network",
    "vae": "CogVideoX's 3D VAE",
    "text_encoder": "T5's encoder",
    "speech_encoder": "wav2vec2",
}
"""What each part is, in words."""
PARTS = tuple(ARE)
