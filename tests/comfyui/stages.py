"""The built-in model's stages, computed by the nodes and shared by tests."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from comfyui.host import Host

SEED = 5
STEPS = 4


class Stages:
    """Model, speech and identity, computed once."""

    def __init__(self, host: Host, picture: Tensor, recording: Any) -> None:
        self.host, self.picture = host, picture
        with torch.inference_mode():
            loaded = self.run("Hallo3LoadBuiltIn")
            self.model, self.reference, self.vae, self.audio_encoder, self.clip = loaded
            self.speech = self.encode_speech(recording.waveform[None], recording.sample_rate)[0]
            self.portrait = picture.permute(1, 2, 0)[None]
            self.identity, self.overview = self.create_identity()

    def run(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        return self.host.node(node).execute(**inputs).result

    def module(self, name: str) -> Any:
        return self.host.module(name)

    @property
    def errors(self) -> Any:
        return self.module("hallo3.errors")

    def encode_speech(self, waveform: Tensor, rate: int = 16000, **options: Any) -> tuple[Any, ...]:
        audio = {"waveform": waveform, "sample_rate": rate}
        return self.run("Hallo3EncodeSpeech", audio=audio, audio_encoder=self.audio_encoder, **options)

    def create_identity(self, **changes: Any) -> tuple[Any, Any]:
        """Of the portrait, or of another by ``changes``: the identity and its overview."""
        usual = {"portrait": self.portrait, "vae": self.vae, "reference_network": self.reference}
        return self.run("Hallo3IdentityReference", **usual | changes)

    def save_identity(self, prefix: str, identity: Any = None) -> str:
        """The name of the new file."""
        inputs = {"identity": identity or self.identity, "model": self.model, "filename_prefix": prefix}
        self.run("Hallo3SaveIdentity", **inputs)
        return next(name for name in self.module("nodes.comfy.faces").list_identities() if prefix in name)

    def inputs(self, **changes: Any) -> dict[str, Any]:
        """The inputs of the talking video, or of another node by ``changes`` (None takes an input away)."""
        usual = {"model": self.model, "vae": self.vae, "identity": self.identity, "speech": self.speech}
        usual |= {"seed": SEED, "steps": STEPS, "guidance_scale": 1.0, "motion_drop": 0.1} | changes
        return {name: value for name, value in usual.items() if value is not None}

    def extrapolate(self, **changes: Any) -> Tensor:
        """All images."""
        return self.run("Hallo3Extrapolate", **self.inputs(**changes))[1]

    def sample(self, **changes: Any) -> Tensor:
        """Latents by Hallo3's own sampler, of segment 0 or another by ``changes``."""
        return self.run("Hallo3Sampler", **self.inputs(**{"segment": 0} | changes))[0]["samples"]

    def original_sampler(self, name: str, **widgets: Any) -> Any:
        return self.run("Hallo3OriginalSampler", sampler_name=name, **widgets)[0]

    def original_schedule(self, steps: int = STEPS) -> Tensor:
        return self.run("Hallo3OriginalSchedule", model=self.model, steps=steps)[0]

    def guider(self, scale: float) -> Any:
        """ComfyUI's own guider with the conditioning of segment 0."""
        return run_extra("custom_sampler.CFGGuider", self.model, *self.conditioning()[:2], scale)

    def encode_text(self, text: str, clip: Any = None) -> Any:
        """By ComfyUI's own node."""
        return import_module("nodes").CLIPTextEncode().encode(clip or self.clip, text)[0]

    def conditioning(self, **changes: Any) -> tuple[Any, Any, Any]:
        """Positive, negative and latent of segment 0."""
        inputs = self.inputs(segment=0, steps=None, guidance_scale=None, **changes)
        return self.run("Hallo3SegmentConditioning", **inputs)

    def run_ksampler(self, *names: str, steps: int = 2, **changes: Any) -> Tensor:
        """Segment 0 through ComfyUI's KSampler, with a sampler and a scheduler or the usual."""
        import nodes

        inputs = changes.pop("model", self.model), SEED, steps, 3.5, *(names or ("euler", "simple"))
        return nodes.common_ksampler(*inputs, *self.conditioning(**changes))[0]["samples"]

    def deviation(self, model: Any) -> float:
        """What another model changes in the latents, as a share of them; NaN is no number."""
        plain = self.run_ksampler()
        return float((self.run_ksampler(model=model) - plain).std() / plain.std())


def run_extra(name: str, *inputs: Any) -> Any:
    """The first output of one of ComfyUI's own nodes, named by its module and class."""
    module, _, node = name.partition(".")
    return getattr(import_module(f"comfy_extras.nodes_{module}"), node).execute(*inputs).result[0]


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference; shapes must agree."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())
