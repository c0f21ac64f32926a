"""The built-in VAE and speech encoder are ComfyUI's: its own nodes take them."""

from __future__ import annotations

import torch

from comfyui.stages import Stages, difference


def test_comfyuis_vae_nodes_take_the_built_in_vae(stages: Stages) -> None:
    import nodes

    pixels = torch.rand(1, 64, 96, 3)
    latents = nodes.VAEEncode().encode(stages.vae, pixels)[0]["samples"]
    assert latents.shape == (1, 16, 1, 8, 12)
    clip = {"samples": torch.randn(1, 16, 13, 8, 12)}
    frames = nodes.VAEDecode().decode(stages.vae, clip)[0]
    ours, _ = stages.run("Hallo3VAEDecode", samples=clip, vae=stages.vae)
    assert frames.shape == ours.shape == (49, 64, 96, 3)
    assert difference(frames, ours) > 1e-3  # group norms over the whole clip: another picture
    tiled = nodes.VAEDecodeTiled().decode(stages.vae, clip, 64, 16, 16, 8)[0]
    assert tiled.shape == frames.shape


def test_comfyuis_audio_node_takes_the_built_in_encoder(stages: Stages) -> None:
    from comfy_extras.nodes_audio_encoder import AudioEncoderEncode

    audio = {"waveform": torch.rand(1, 2, 44100) - 0.5, "sample_rate": 44100}
    heard = AudioEncoderEncode.execute(stages.audio_encoder, audio).result[0]
    assert len(heard["encoded_audio_all_layers"]) == 4
    assert heard["encoded_audio"].shape == (1, 49, 32)
    assert heard["audio_samples"] == 16000


def test_the_built_in_set_can_be_moved_and_unloaded(stages: Stages) -> None:
    """ComfyUI unloads everything when memory is short; what follows is the same."""
    import comfy.model_management as mm

    before = stages.run("Hallo3Sampler", **stages.given(segment=0, steps=2))[0]["samples"]
    mm.unload_all_models()
    again = stages.run("Hallo3Sampler", **stages.given(segment=0, steps=2))[0]["samples"]
    assert difference(again, before) == 0
