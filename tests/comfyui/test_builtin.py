"""The built-in VAE, speech encoder and text encoder are ComfyUI's: its own nodes take them; memory of a
decode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comfyui.host import Host
from comfyui.stages import Stages, difference


def test_comfyuis_vae_nodes_take_the_built_in_vae(stages: Stages) -> None:
    import nodes

    pixels = torch.rand(1, 64, 64, 3)
    latents = nodes.VAEEncode().encode(stages.vae, pixels)[0]["samples"]
    assert latents.shape == (1, 16, 1, 8, 8)
    clip = {"samples": torch.randn(1, 16, 9, 8, 8)}
    frames = nodes.VAEDecode().decode(stages.vae, clip)[0]
    ours, _ = stages.run("Hallo3VAEDecode", samples=clip, vae=stages.vae)
    assert frames.shape == ours.shape == (33, 64, 64, 3)
    assert difference(frames, ours) > 1e-3  # group norms over the whole clip: another picture
    tiled = nodes.VAEDecodeTiled().decode(stages.vae, clip, 64, 16, 16, 8)[0]
    assert tiled.shape == frames.shape


def test_comfyuis_audio_node_takes_the_built_in_encoder(stages: Stages) -> None:
    from comfy_extras.nodes_audio_encoder import AudioEncoderEncode

    audio = {"waveform": torch.rand(1, 2, 44100) - 0.5, "sample_rate": 44100}
    encoded = AudioEncoderEncode.execute(stages.audio_encoder, audio).result[0]
    assert len(encoded["encoded_audio_all_layers"]) == 4
    assert encoded["encoded_audio"].shape == (1, 49, 48)
    assert encoded["audio_samples"] == 16000


def test_comfyuis_text_nodes_take_the_built_in_clip(stages: Stages) -> None:
    """Set to another layer (there is none) or length, zeroed out, joined: what the model reads is plain."""
    from comfy_extras.nodes_cond import T5TokenizerOptions

    import nodes

    plain = nodes.CLIPTextEncode().encode(stages.clip, "dim light")[0]
    padded = T5TokenizerOptions.execute(stages.clip, 1, 3).result[0]
    for clip in (nodes.CLIPSetLastLayer().set_last_layer(stages.clip, -2)[0], padded):
        assert difference(nodes.CLIPTextEncode().encode(clip, "dim light")[0][0][0], plain[0][0]) == 0
    zeroed = nodes.ConditioningZeroOut().zero_out(plain)[0]
    found = stages.run("Hallo3Sampler", **stages.inputs(segment=0, positive=zeroed))[0]["samples"]
    nothing = stages.run("Hallo3Sampler", **stages.inputs(segment=0))[0]["samples"]
    lit = stages.run("Hallo3Sampler", **stages.inputs(segment=0, positive=plain))[0]["samples"]
    assert difference(found, nothing) == 0
    assert difference(lit, nothing) > 1e-4
    joined = nodes.ConditioningConcat().concat(plain, plain)[0]
    found = stages.run("Hallo3Sampler", **stages.inputs(segment=0, positive=joined))[0]["samples"]
    assert difference(found, lit) == 0  # the model reads no more tokens than one prompt has


def test_words_have_ids(stages: Stages) -> None:
    """Nodes that weigh words ask for their numbers."""
    [row] = stages.clip.tokenize("dim light", return_word_ids=True)["hallo3"]
    assert [token[2] for token in row] == list(range(1, 17))
    [plain] = stages.clip.tokenize("dim light")["hallo3"]
    assert plain == [token[:2] for token in row]


def test_warnings_are_logged_every_time(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = stages.host.module("hallo3.face.drawn").DrawnFaceAnalyzer
    look, logger = drawn.analyze, stages.host.module("hallo3.messages").logger

    def doubting(self: Any, picture: Tensor) -> Any:
        logger.warning("It looks like a photograph.")
        return look(self, picture)

    monkeypatch.setattr(drawn, "analyze", doubting)
    inputs = {"portrait": stages.portrait, "vae": stages.vae, "reference_network": stages.reference}
    for _ in range(2):
        stages.run("Hallo3IdentityReference", **inputs)
    stages.clip.tokenize("word " * 16)
    stages.run(
        "Hallo3EncodeSpeech",
        audio={"waveform": torch.zeros(1, 1, 9000), "sample_rate": 16000},
        audio_encoder=stages.audio_encoder,
    )
    messages = [record.message for record in caplog.records if record.message.startswith("Hallo3: ")]
    assert messages[:2] == ["Hallo3: It looks like a photograph."] * 2
    assert "17 tokens" in messages[2]
    assert "digital silence" in messages[3]


def test_the_built_in_set_can_be_moved_and_unloaded(stages: Stages) -> None:
    """ComfyUI unloads everything when memory is short; what follows is the same."""
    import comfy.model_management as mm

    before = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=2))[0]["samples"]
    mm.unload_all_models()
    again = stages.run("Hallo3Sampler", **stages.inputs(segment=0, steps=2))[0]["samples"]
    assert difference(again, before) == 0


FREE, SIZE = 1_000_000, 4 * 1000
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dynamic", "loaded", "left"),
    [
        (False, 0, FREE - SIZE),
        (False, 1000, FREE - SIZE + 1000),
        (False, SIZE, FREE),
        (True, SIZE, FREE - SIZE),
    ],
)
def test_loaded_weights_are_not_subtracted_from_free_memory(
    host: Host, monkeypatch: pytest.MonkeyPatch, dynamic: bool, loaded: int, left: int
) -> None:
    """ComfyUI does not call it free; its dynamic memory does."""
    from comfy.model_patcher import ModelPatcher

    vae: Any = host.module("nodes.comfy.vae")
    patcher: Any = ModelPatcher(nn.Linear(1000, 1, bias=False), load_device=CPU, offload_device=CPU)
    patcher.model.model_loaded_weight_memory = loaded
    monkeypatch.setattr(patcher, "get_free_memory", lambda _: FREE)
    monkeypatch.setattr(patcher, "is_dynamic", lambda: dynamic)
    assert vae.free_beside(SimpleNamespace(patcher=patcher, device=CPU)) == left
