"""What the original publishes: which files, how large, and where each belongs among ComfyUI's models.

Sizes follow from the shapes in the checkpoint manifest; ``files`` are patterns inside the repository.
"""

from __future__ import annotations

from dataclasses import dataclass

REPOSITORY = "fudan-generative-ai/hallo3"
PAGE = f"https://huggingface.co/{REPOSITORY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A part as it is published: ``files`` in the repository, ``parameters`` that are needed of it, and the
    ``folder`` among ComfyUI's models. ``matrices`` of the parameters become fp8 where that is asked for."""

    files: tuple[str, ...]
    parameters: int
    folder: str
    matrices: int = 0

    def size(self, bits: int = 16) -> int:
        """Bytes in 32 or 16 bits, or with its matrices in 8 bits."""
        if bits == 8:
            return 2 * self.parameters - self.matrices
        return self.parameters * bits // 8


_CHECKPOINT = ("hallo3/latest", "hallo3/1/mp_rank_00_model_states.pt")

RELEASE: dict[str, Published] = {
    "transformer": Published(
        files=_CHECKPOINT,
        parameters=8_921_057_344,
        folder="diffusion_models",
        matrices=6_804_209_664,
    ),
    "reference": Published(
        files=_CHECKPOINT,
        parameters=5_625_087_552,
        folder="diffusion_models",
        matrices=4_756_340_736,
    ),
    "vae": Published(
        files=("cogvideox-5b-i2v-sat/vae/3d-vae.pt",),
        parameters=215_583_907,
        folder="vae",
    ),
    "text_encoder": Published(
        files=("t5-v1_1-xxl/*",),
        parameters=4_762_310_656,
        folder="text_encoders",
    ),
    "speech_encoder": Published(
        files=("wav2vec/wav2vec2-base-960h/*",),
        parameters=94_370_944,
        folder="audio_encoders",
    ),
}
"""Every part, under its name."""
CHECKPOINT_SIZE = 29_102_061_824
"""Bytes of the two networks in one file, at least: training's frozen tensors may be in it too."""
