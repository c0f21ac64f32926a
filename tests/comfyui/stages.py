"""The built-in model's stages, computed by the nodes and shared by tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from comfyui.host import Host

SEED = 5
STEPS = 4


class Stages:
    """Model, speech and identity, computed once."""

    def __init__(self, host: Host, picture: Tensor, recording: Any) -> None:
        self.host = host
        with torch.inference_mode():
            loaded = self.run("Hallo3LoadBuiltIn")
            self.model, self.reference, self.vae, self.audio_encoder, self.clip = loaded
            audio = {"waveform": recording.waveform[None], "sample_rate": recording.sample_rate}
            self.speech = self.run("Hallo3EncodeSpeech", audio=audio, audio_encoder=self.audio_encoder)[0]
            self.portrait = picture.permute(1, 2, 0)[None]
            self.identity, self.overview = self.run(
                "Hallo3IdentityReference",
                portrait=self.portrait,
                vae=self.vae,
                reference_network=self.reference,
            )

    def run(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        return self.host.node(node).execute(**inputs).result

    def inputs(self, **changes: Any) -> dict[str, Any]:
        """The inputs of Extrapolate, or of another node by ``changes`` (None takes an input away)."""
        usual = {
            "model": self.model,
            "vae": self.vae,
            "identity": self.identity,
            "speech": self.speech,
            "seed": SEED,
            "steps": STEPS,
            "guidance_scale": 1.0,
            "motion_drop": 0.1,
        }
        return {name: value for name, value in (usual | changes).items() if value is not None}

    def conditioning(self, **changes: Any) -> tuple[Any, Any, Any]:
        """Positive, negative and latent of segment 0."""
        inputs = self.inputs(segment=0, steps=None, guidance_scale=None, **changes)
        return self.run("Hallo3SegmentConditioning", **inputs)

    def run_ksampler(self, sampler: str, scheduler: str, steps: int = 2, **changes: Any) -> Tensor:
        """Segment 0 through ComfyUI's KSampler."""
        import nodes

        model = changes.pop("model", self.model)
        positive, negative, latent = self.conditioning(**changes)
        result = nodes.common_ksampler(
            model, SEED, steps, 3.5, sampler, scheduler, positive, negative, latent
        )
        return result[0]["samples"]


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference; shapes must agree."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())
